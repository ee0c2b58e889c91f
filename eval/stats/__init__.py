"""Estimators, intervals and tests."""
