"""What is decided: pure functions and data; the time is an argument."""
