"""Estimates of sizes against real files, real headers and llama.cpp's block layouts."""

from __future__ import annotations

import pytest

from charprobe_lite.models import size_estimates
from charprobe_lite.models.catalogue import Catalogue
from charprobe_lite.models.catalogue_schema import Shape
from charprobe_lite.models.kit import embedded_base
from charprobe_lite.models.quant_types import BITS


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.1-8b"])
def test_a_shape_has_as_many_weights_as_the_checkpoint(shipped: Catalogue, name: str) -> None:
    base = shipped.bases[name]
    shape = base.shape
    assert shape is not None
    tables = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    norms = shape.hidden * (2 * shape.layers + 1)
    assert size_estimates.layer_parameters(shape) + tables + norms == base.parameters


def test_bits_per_weight_are_those_of_the_block_layouts() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for quant, (layers, embedding, _) in BITS.items():
        if quant.startswith(("IQ1", "IQ2", "IQ3")):  # their tables are kept in a wider type
            assert embedding > 2.6
            continue
        layout = quant.removesuffix("_S").removesuffix("_M").removesuffix("_L")
        weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[layout]]
        assert embedding == 8 * size / weights, quant
        assert layers >= embedding, quant


def test_the_estimate_is_near_a_file_that_exists(
    shipped: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the embedded file holds Q4_1 layers (5 bits) and its one table as Q8_0
    monkeypatch.setitem(size_estimates.FALLBACK, 5.0, 5.0)
    estimate = size_estimates.file_bytes(shipped.bases["smollm2-135m"], "Q4_1")
    real = embedded_base().stat().st_size
    assert estimate == pytest.approx(real, rel=0.04)


def test_memory_is_the_file_and_the_keys_and_values(shipped: Catalogue) -> None:
    base = shipped.bases["llama-3.1-8b"]
    kv = 32 * 8 * 128 * 2 * 2 * 1000 * 4  # layers, heads, width, K and V, bytes, tokens, rollouts
    file = size_estimates.file_bytes(base, "Q8_0")
    assert size_estimates.memory_bytes(base, "Q8_0", 1000, 4) == file + kv
    unknown = base.model_copy(update={"shape": None})
    assert size_estimates.memory_bytes(unknown, "Q8_0", 1000, 4) is None
    assert size_estimates.file_bytes(unknown, "Q8_0") == pytest.approx(file, rel=1e-4)


def test_a_lora_has_a_row_and_a_column_per_rank() -> None:
    shape = Shape(layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab=10)
    sides = (8 + 8) + (4 + 8) + (4 + 8) + (8 + 8) + 3 * (16 + 8)
    assert size_estimates.adapter_parameters(shape, 3) == 2 * 3 * sides
