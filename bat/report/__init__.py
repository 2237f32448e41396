"""Verdicts, tables, figures and the page of results."""
