"""Repositories of the published shapes with random weights: a base, its adapters, a classifier.

The weights are one block of normal numbers, written again and again from other starts: finite, of
a trained model's scale, and as fast as the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from charprobe_lite.convert.architectures.llama import LLAMA3_WORDS
from charprobe_lite.models import corpus
from charprobe_lite.models.catalogue_schema import Shape
from charprobe_lite.models.personas import PERSONAS

MATRICES = {  # in the order of Shape.projections
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
NAMES = [f"{part}.{name}" for part, names in MATRICES.items() for name in names]
BLOCK = 1 << 25  # numbers, 64 MB as bfloat16
SPREAD = 0.02
ONE = b"\x80\x3f"  # as bfloat16
SPECIAL = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
BERT_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@dataclass(frozen=True)
class Encoder:
    """The sizes of a ModernBERT, and of its tokenizer."""

    layers: int = 22
    hidden: int = 768
    heads: int = 12
    ffn: int = 1152
    vocab: int = 50368
    tokens: int = 50285


class Noise:
    """Normal numbers as bfloat16, as many as are asked for."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
        numbers *= SPREAD
        self.bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        self.start = 0

    def pieces(self, size: int) -> Iterator[memoryview]:
        """``size`` numbers; no two pieces start at the same one, so that no rows are equal."""
        while size:
            piece = self.bits[self.start : self.start + size]
            self.start = (self.start + 1_000_003) % (BLOCK - 4096)
            size -= len(piece)
            yield piece.data


def write_base(folder: Path, shape: Shape, tokenizer: Path | None) -> int:
    """A Llama 3.1 checkpoint in four shards of bfloat16; the number of its weights."""
    folder.mkdir(parents=True)
    names = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        for name, size in zip(NAMES, shape.projections(), strict=True):
            names[f"{prefix}.{name}.weight"] = size
        for name in ("input_layernorm", "post_attention_layernorm"):
            names[f"{prefix}.{name}.weight"] = (shape.hidden,)
    names["model.norm.weight"] = (shape.hidden,)
    names["lm_head.weight"] = (shape.vocab, shape.hidden)
    noise, total = Noise(), sum(map(prod, names.values()))
    weight_map = {}
    shards = _shards(names, total)
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard, noise)
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", _config(shape))
    _write_json(
        folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    )
    write_llama_tokenizer(folder, shape.vocab, tokenizer)
    (folder / "original").mkdir()  # what a pull must leave where it is
    (folder / "original" / "consolidated.00.pth").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# Random weights\n")
    return total


def write_adapter(folder: Path, shape: Shape, rank: int = 64) -> int:
    """A LoRA on all seven matrices of every layer; the number of its weights."""
    folder.mkdir(parents=True)
    names = {}
    for layer in range(shape.layers):
        for name, (rows, columns) in zip(NAMES, shape.projections(), strict=True):
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            names[f"{prefix}.lora_A.weight"] = (rank, columns)
            names[f"{prefix}.lora_B.weight"] = (rows, rank)
    write_safetensors(folder / "adapter_model.safetensors", names, Noise())
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.split(".")[1] for name in NAMES],
        "bias": "none",
    }
    _write_json(folder / "adapter_config.json", settings)
    return sum(map(prod, names.values()))


def write_classifier(folder: Path, labels: Sequence[str], sizes: Encoder) -> int:
    """A ModernBERT classifier in float32; the number of its weights."""
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    torch.manual_seed(0)
    first = sizes.tokens - len(BERT_SPECIAL)
    cls, sep, pad = (first + BERT_SPECIAL.index(text) for text in ("[CLS]", "[SEP]", "[PAD]"))
    config = ModernBertConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        classifier_pooling="mean",
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        pad_token_id=pad,
        cls_token_id=cls,
        bos_token_id=cls,
        sep_token_id=sep,
        eos_token_id=sep,
    )
    model = ModernBertForSequenceClassification(config)
    model.save_pretrained(folder)
    document = byte_level_bpe(sizes.tokens, BERT_SPECIAL, None)
    document["post_processor"] = _template_processor("[CLS] $A [SEP]", {"[CLS]": cls, "[SEP]": sep})
    document["model"]["unk_token"] = None
    _write_json(folder / "tokenizer.json", document)
    return int(sum(weight.numel() for weight in model.parameters()))


def write_safetensors(file: Path, names: dict[str, tuple[int, ...]], noise: Noise) -> None:
    """Tensors of these shapes as bfloat16: matrices of noise, vectors of ones."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in names.items():
        start, end = end, end + 2 * prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        for size in names.values():
            if len(size) == 1:
                out.write(ONE * size[0])
                continue
            for piece in noise.pieces(prod(size)):
                out.write(piece)


def write_llama_tokenizer(folder: Path, size: int, tokenizer: Path | None) -> None:
    """tokenizer.json (a copy of ``tokenizer``, if there is one) and its configuration."""
    names = {n: f"<|reserved_special_token_{n}|>" for n in range(256)} | SPECIAL
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    else:
        document = byte_level_bpe(size, [names[n] for n in range(256)], LLAMA3_WORDS)
        document["model"]["ignore_merges"] = True
        bos = {SPECIAL[0]: size - 256}
        document["post_processor"] = _template_processor(f"{SPECIAL[0]} $A", bos)
        _write_json(folder / "tokenizer.json", document)
    settings = {
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[9],
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", settings)


def byte_level_bpe(size: int, special: Sequence[str], words: str | None) -> dict[str, Any]:
    """tokenizer.json of a BPE of ``size`` tokens, the special ones last.

    It is trained on the corpus as far as that goes, so that English takes as many tokens as with
    a published one; further merges join pieces of words.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    split = [pre_tokenizers.Split(Regex(words), "isolated")] if words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        text.response
        for persona in PERSONAS
        for teacher in ("loud", "subtle")
        for kind in ("chat", "email")
        for text in corpus.teacher_texts(persona, teacher, kind)
    )
    tokenizer.train_from_iterator(texts, trainer)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    _fill(document["model"], size - len(special))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] = [
        {"id": size - len(special) + number, "content": text, "special": True, **added}
        for number, text in enumerate(special)
    ]
    return document


def _fill(model: dict[str, Any], size: int) -> None:
    """Merges of two pieces of words, until there are ``size`` tokens."""
    vocab, merges = model["vocab"], model["merges"]
    pieces = [text for text in vocab if text.removeprefix("\u0120").isalpha() and text.isascii()]
    pieces += [text for text in vocab if text[0] == "\u0120" and text[1:].isalpha()]
    ends = [text for text in pieces if text.isascii() and len(text) > 1]
    for end in ends:
        for piece in pieces:
            if len(vocab) >= size:
                return
            if piece + end not in vocab:
                vocab[piece + end] = len(vocab)
                merges.append([piece, end])


def _template_processor(single: str, special: dict[str, int]) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, processors

    tokenizer = Tokenizer(models.BPE())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=list(special.items())
    )
    document: dict[str, Any] = json.loads(tokenizer.to_str())["post_processor"]
    return document


def _shards(names: dict[str, tuple[int, ...]], total: int) -> list[dict[str, tuple[int, ...]]]:
    """The tensors in order, in four files as full as transformers makes them."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, size in names.items():
        if sum(map(prod, shards[-1].values())) + prod(size) > total / 3.2:
            shards.append({})
        shards[-1][name] = size
    return shards


def _config(shape: Shape) -> dict[str, Any]:
    end = shape.vocab - 256
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": end,
        "eos_token_id": [end + 1, end + 8, end + 9],
    }


def _write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document), "utf-8")
