"""A model on sounds of one's own: search, tags, timelines."""
