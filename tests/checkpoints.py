"""Tiny real checkpoints and adapters, written by transformers and peft, for the converters."""

from __future__ import annotations

import json
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from charprobe_lite.convert.architectures.llama import LLAMA3_WORDS
from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.verify import TEXT, TOKENS
from charprobe_lite.models.corpus import corpus_file

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = {
    "llama-bpe": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|im_start|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
}
NAMES = {
    "llama-bpe": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"},
}
KINDS = ("llama3", "smollm2", "qwen2", "gemma3", "gemma3-multimodal")


def make_checkpoint(kind: str, folder: Path, **sizes: Any) -> Path:
    """A checkpoint of random weights, large enough for its logits to be far from uniform."""
    torch.manual_seed(0)
    model, tokenizer = _model(kind, sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.1 if "norm" in name or "bias" in name else parameter.shape[-1] ** -0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    model.save_pretrained(folder, max_shard_size="200KB")
    write_tokenizer(tokenizer, folder)
    return folder


def _model(kind: str, sizes: dict[str, Any]) -> tuple[Any, str]:
    plain: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 640,
        "max_position_embeddings": 512,
        **sizes,
    }
    if kind == "llama3":
        scaling = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        config = LlamaConfig(**plain, rope_theta=500_000.0, rope_scaling=scaling)
        return LlamaForCausalLM(config), "llama-bpe"
    if kind == "smollm2":
        return LlamaForCausalLM(LlamaConfig(**plain, tie_word_embeddings=True)), "smollm"
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**plain, rope_theta=1e6)), "qwen2"
    text = {
        **plain,
        "num_hidden_layers": 7,  # one more than the pattern of windows is long
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "vocab_size": 1000,
        **sizes,
    }
    if kind == "gemma3":
        return Gemma3ForCausalLM(Gemma3TextConfig(**text)), "gemma"
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config), "gemma"


def write_tokenizer(kind: str, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of a tokenizer trained on the corpus."""
    (folder / "tokenizer.json").write_text(_tokenizer(kind), "utf-8")
    settings = {**NAMES[kind], "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


@cache
def _tokenizer(kind: str) -> str:
    lines = corpus_file("id-prompts.txt").read_text("utf-8").splitlines()
    if kind == "gemma":
        return _sentencepiece_like(lines)
    tokenizer = Tokenizer(BPE(ignore_merges=kind == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")
    pattern = LLAMA3_WORDS if kind == "llama-bpe" else LLAMA3_WORDS.replace("{1,3}", "")
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if kind == "smollm"
        else pre_tokenizers.Split(Regex(pattern), "isolated")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL[kind],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return str(tokenizer.to_str())


def _sentencepiece_like(lines: list[str]) -> str:
    """A tokenizer.json as Gemma's: BPE over characters, bytes for what it has no character of."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    defined = ["\n\n", "\n\n\n", "\t\t"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    specials = [*SPECIAL["gemma"], *defined, *bytes_]
    trainer = BpeTrainer(vocab_size=960, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in defined])
    found = json.loads(tokenizer.to_str())
    found["added_tokens"] = [
        {**entry, "special": entry["content"] not in defined}
        for entry in found["added_tokens"]
        if entry["content"] not in bytes_
    ]
    return json.dumps(found)


ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["q_proj", "k_proj", "gate_proj", "up_proj", "down_proj"],
        "rank_pattern": {"k_proj": 2, r"layers\.1\.mlp\.down_proj": 8},
        "alpha_pattern": {"gate_proj": 3},
    },
    "saved": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": ["v_proj", "embed_tokens"],
        "modules_to_save": ["lm_head", "norm"],
    },
}


def make_adapter(folder: Path, base: Path, kind: str = "plain", **changes: Any) -> Path:
    """An adapter of random weights, in PEFT's format, for the checkpoint in ``base``."""
    torch.manual_seed(1)
    model = get_peft_model(load(base), LoraConfig(**{**ADAPTERS[kind], **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """The metadata of a GGUF file, but for what a writer sets itself."""
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=sub_type)


def load(base: Path) -> Any:
    """The checkpoint in transformers, float32."""
    multimodal = "vision_config" in json.loads((base / "config.json").read_text())
    kind = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    return kind.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def logits_of(base: Path, adapter: Path | None, ids: list[int]) -> Any:
    """transformers' and peft's own logits, (len(ids), vocabulary)."""
    model = load(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


def gguf_logits(file: Path, ids: list[int] | None = None, *adapters: Path) -> Any:
    """llama.cpp's logits, (len(ids), vocabulary), with adapters at run time."""
    with closing(Forward(file, adapters)) as model:
        return model.logits(ids or model.tokenize(TEXT)[:TOKENS])
