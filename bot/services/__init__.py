"""The loops that do the work: each waits for what is due, and does it."""
