"""What is trained of a GGUF file computes what transformers computes of its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.train.gguf_weights import load_gguf_model, rotary_scaling
from charprobe_lite.models.errors import BadInput
from tests.checkpoints import logits_of, make_checkpoint

IDS = [*range(5, 500, 5), *range(7, 100, 3)]
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama3", {}),
        ("llama3", {"attention_bias": True, "mlp_bias": True}),
        ("smollm2", {"rope_scaling": LINEAR}),
        ("qwen2", {"rope_scaling": YARN}),
        ("gemma3", {"rope_scaling": LINEAR}),
        ("gemma3-multimodal", {}),
    ],
)
def test_rotary_scaling_and_the_scale_of_q_are_kept(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(kind, tmp_path / kind, **changes)
    merge_lora(checkpoint, [], tmp_path / "base.gguf", "F32", verify=False)
    model = load_gguf_model(tmp_path / "base.gguf", torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=torch.tensor([IDS])).logits[0]
    expected = torch.from_numpy(logits_of(checkpoint, None, IDS))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_scaling_that_is_not_computed_is_refused() -> None:
    fields = {"rope.scaling.type": "longrope", "rope.scaling.factor": 32.0}
    with pytest.raises(BadInput, match=r"phi.gguf: field rope.scaling.type: longrope cannot be"):
        rotary_scaling(fields, Path("phi.gguf"))
