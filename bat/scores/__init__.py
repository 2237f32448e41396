"""Memorization and influence: subset models, estimators, scores from files."""
