"""Scores of recorded rollouts."""
