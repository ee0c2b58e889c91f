"""A study: what it is to do, what that needs, and running it."""
