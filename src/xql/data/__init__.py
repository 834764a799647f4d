"""Logged experience in, one `Dataset` out."""
