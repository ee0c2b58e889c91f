"""A GGUF file's byte-level BPE tokenizer as a `tokenizers.Tokenizer`."""

from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

CONTROL = 3  # llama.cpp's token type of <|im_start|> and its like


def read_tokenizer(path: Path, size: int | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file with ``tokenizer.ggml.pre`` = smollm.

    ``size`` keeps only the first tokens: merges are ordered by frequency, so a prefix of the
    vocabulary is a BPE, too. Agrees with llama.cpp token for token at full size. Raises ValueError
    for another kind of tokenizer.
    """
    fields = gguf.GGUFReader(path).fields
    if fields["tokenizer.ggml.pre"].contents() != "smollm":
        raise ValueError(f"{path}: tokenizer.ggml.pre is not smollm")
    tokens = fields["tokenizer.ggml.tokens"].contents()[:size]
    types = fields["tokenizer.ggml.token_type"].contents()[:size]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = (merge.split(" ") for merge in fields["tokenizer.ggml.merges"].contents())
    merges = [(a, b) for a, b in pairs if {a, b, a + b} <= vocabulary.keys()]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer
