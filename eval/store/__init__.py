"""The study file: one SQLite database with everything that was recorded."""
