"""Simulators in, one way to step them."""
