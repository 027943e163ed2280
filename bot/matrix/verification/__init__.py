"""Verification of the bot by emoji."""
