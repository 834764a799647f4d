"""Every figure and table of the paper, drawn again from what this library computes."""
