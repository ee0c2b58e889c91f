"""A study as files for other programs."""
