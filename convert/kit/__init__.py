"""The recipe that makes the embedded kit."""
