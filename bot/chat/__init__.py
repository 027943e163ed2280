"""What people type, and what they read: commands, notices and the status, as text."""
