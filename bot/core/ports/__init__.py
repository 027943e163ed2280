"""What services ask of the homeserver and of the store: roles, each call with its contract."""
