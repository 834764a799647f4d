"""The loops that turn data into policies."""
