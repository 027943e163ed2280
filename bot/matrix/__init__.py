"""The only place that speaks to a homeserver, through nio."""
