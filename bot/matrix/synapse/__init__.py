"""What takes a server administrator's token, on Synapse."""
