"""Attacks: pure functions of a model, images in [0, 1] and starting points.

They leave the model as they find it: they ask for the gradient of the images alone, so that no parameter's gradient is
computed or touched, and all randomness comes in as an argument. The caller chooses the model's mode.
"""
