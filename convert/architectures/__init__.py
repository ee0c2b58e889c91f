"""The model architectures that can be converted."""
