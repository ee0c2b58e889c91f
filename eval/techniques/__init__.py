"""Grids of training techniques: planned, trained, evaluated, compared and reported."""
