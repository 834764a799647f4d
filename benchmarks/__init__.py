"""Speed and results, measured by commands that anyone can run again."""
