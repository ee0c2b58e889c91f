"""How a checkpoint is asked: one module per condition, each with `items` and `rollout`."""
