"""Training: losses, the loop, methods, checkpoints."""
