"""What an operator runs: one module for each subcommand, and what they share."""
