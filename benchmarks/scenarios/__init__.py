"""What is measured beside others: one module for each question."""
