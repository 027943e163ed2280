"""End-to-end encryption: nio's engine, its keys and its channels."""
