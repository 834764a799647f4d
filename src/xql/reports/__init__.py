"""Comparisons, tables, figures and videos of finished runs."""
