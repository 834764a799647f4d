"""Play policies, score them, and say how sure the scores are."""
