"""Models under attack, and what their results say."""
