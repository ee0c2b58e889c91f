"""Asking the question: conditions, rollouts, scores, the study store, the command line."""
