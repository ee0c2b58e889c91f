"""Training on transformers and peft: LoRA adapters and classifiers."""
