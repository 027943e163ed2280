"""The account's cross-signing keys: made, kept, and restored."""
