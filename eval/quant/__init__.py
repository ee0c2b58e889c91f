"""Quantization studies: what they add to the rollouts, and each weight type against F16."""
