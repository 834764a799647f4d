"""Logged experience from any source, as one `Dataset`."""
