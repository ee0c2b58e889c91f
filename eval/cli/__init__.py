"""The commands, each a thin shell over plain functions."""
