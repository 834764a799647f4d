"""Rollouts, normalised scores and their confidence intervals, videos."""
