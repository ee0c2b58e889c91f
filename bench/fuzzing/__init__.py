"""Hostile inputs: how they are made, and what reads them (`bench/fuzz.py`)."""
