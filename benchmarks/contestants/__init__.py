"""Those who take part: this bot, an ideal client, and what else people use or would write."""
