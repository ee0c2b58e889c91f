"""Scoring texts and predictions from other people's files."""
