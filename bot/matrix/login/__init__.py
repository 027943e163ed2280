"""The bot's login: one device, and the tokens that it goes by."""
