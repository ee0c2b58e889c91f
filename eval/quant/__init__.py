"""Quantization studies: what they add to the rollouts, and each weight type against F16.

`study` measures and records; `records` reads it back; `measure` makes numbers of sums over prompts,
scenarios or texts, which `score`, `fidelity_score`, `health` and `instrument` use; `findings` puts
them together with `trend` and `recommend`; `report` prints them.
"""

REFERENCE = "F16"
"""What every other weight type is compared with."""
MARGIN = 0.03
"""The largest difference from F16 in a share that counts as none, where nobody says otherwise."""
