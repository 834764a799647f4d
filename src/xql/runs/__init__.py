"""What a run leaves on disk, and the figures drawn from it."""
