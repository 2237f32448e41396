"""Tables to figures: each function takes DataFrames and returns a matplotlib Figure; ``draw_NAME`` feeds it."""
