"""Requests to the homeserver, and what its answers mean."""
