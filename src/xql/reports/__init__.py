"""Comparisons, tables, figures and films of finished runs."""
