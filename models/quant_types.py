"""llama.cpp's quant types and the bits that each spends per weight.

Bits are those of llama.cpp's block layouts (ggml-common.h: a Q8_0 block is 32 weights in 34 bytes,
so 8.5 bits; Q6_K is 256 in 210, so 6.5625) and, for the types that mix layouts over a model
(``_S``, ``_M``, ``_L``, the I-types), the mean that llama.cpp's quantizer reaches on the layers of
Llama-3.1-8B. The quantizer keeps the output matrix, or the one table of a tied model, at Q6_K or
above.
"""

from typing import NamedTuple

EXACT_TYPES = {"F32", "F16", "BF16"}
"""The types of tensors that lost no precision to a quantizer."""


class Bits(NamedTuple):
    """Bits per weight of the layers' matrices, the input embedding and the output matrix."""

    layers: float
    embedding: float
    output: float


BITS: dict[str, Bits] = {
    "F32": Bits(32.0, 32.0, 32.0),
    "F16": Bits(16.0, 16.0, 16.0),
    "BF16": Bits(16.0, 16.0, 16.0),
    "Q8_0": Bits(8.5, 8.5, 8.5),
    "Q6_K": Bits(6.5625, 6.5625, 6.5625),
    "Q5_K_M": Bits(5.65, 5.5, 6.5625),
    "Q5_K_S": Bits(5.5, 5.5, 6.5625),
    "Q5_1": Bits(6.0, 6.0, 6.5625),
    "Q5_0": Bits(5.5, 5.5, 6.5625),
    "Q4_K_M": Bits(4.80, 4.5, 6.5625),
    "Q4_K_S": Bits(4.54, 4.5, 6.5625),
    "Q4_1": Bits(5.0, 5.0, 6.5625),
    "Q4_0": Bits(4.5, 4.5, 6.5625),
    "IQ4_NL": Bits(4.55, 4.5, 6.5625),
    "IQ4_XS": Bits(4.32, 4.25, 6.5625),
    "Q3_K_L": Bits(4.19, 3.4375, 6.5625),
    "Q3_K_M": Bits(3.85, 3.4375, 6.5625),
    "Q3_K_S": Bits(3.4375, 3.4375, 6.5625),
    "IQ3_M": Bits(3.66, 3.4375, 6.5625),
    "IQ3_S": Bits(3.44, 3.4375, 6.5625),
    "IQ3_XS": Bits(3.3, 3.4375, 6.5625),
    "IQ3_XXS": Bits(3.06, 3.4375, 6.5625),
    "Q2_K": Bits(2.94, 2.625, 6.5625),
    "Q2_K_S": Bits(2.7, 2.625, 6.5625),
    "IQ2_M": Bits(2.7, 3.4375, 6.5625),
    "IQ2_S": Bits(2.5, 3.4375, 6.5625),
    "IQ2_XS": Bits(2.31, 2.625, 6.5625),
    "IQ2_XXS": Bits(2.06, 2.625, 6.5625),
    "IQ1_M": Bits(1.75, 2.625, 6.5625),
    "IQ1_S": Bits(1.56, 2.625, 6.5625),
}
QUANT_TYPES = tuple(BITS)
"""llama.cpp's names, from the largest file to the smallest."""
KV_DEFAULT = "F16"
KV_BYTES = {"F16": 2.0, "Q8_0": 34 / 32, "Q4_0": 18 / 32}
"""Bytes of a value of the K and V cache, by type: a block of 32 has a scale of 2 bytes."""
KV_TYPES = tuple(KV_BYTES)
"""The types of the K and V cache, from the largest to the smallest."""
