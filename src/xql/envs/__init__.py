"""Environments, and one way to make them."""
