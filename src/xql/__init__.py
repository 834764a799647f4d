"""Extreme Q-Learning: from logged decisions to a policy that can be trusted."""

__version__ = "0.1.0"
