"""Named annotators with one cache and one budget."""
