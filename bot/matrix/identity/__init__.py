"""The account's cross-signing keys, and whose devices are signed."""
