"""The version of this package, and of the run folders that it writes."""

__version__ = "0.1.0"
