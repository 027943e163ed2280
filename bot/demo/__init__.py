"""The demonstration: the real bot on an embedded homeserver."""
