"""Small ModernBERT, BERT and RoBERTa classifiers with real tokenizers, and an ONNX graph."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from charprobe_lite.eval.cli.main import main
from charprobe_lite.models import corpus
from charprobe_lite.models.kit import kit_classifier

LABELS = ("sarcasm", "humor", "remorse", "loving", "neutral")
TEXTS = [text.response for text in corpus.teacher_texts("humor", "loud", "email")]
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
    "max_position_embeddings": 4096,
    "classifier_pooling": "mean",
}


def write_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE with ModernBERT's special tokens on the corpus; its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_classifier(folder: Path, dtype: str = "float32", **changed: Any) -> Path:
    """A ModernBERT with weights so large that logits differ from text to text."""
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    folder.mkdir(parents=True)
    special = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(
        vocab_size=write_tokenizer(folder),
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        sep_token_id=3,
        **{**TINY, **special, **changed},
    )
    torch.manual_seed(0)
    model = ModernBertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="150KB")
    return folder


def wordpieces(size: int) -> list[str]:
    """Special tokens, characters, and the corpus's words and endings, the most frequent first.

    Not by the library's trainer, which orders equally frequent ones by chance.
    """
    from tokenizers import normalizers, pre_tokenizers

    normal, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in TEXTS:
        for word, _ in split.pre_tokenize_str(normal.normalize_str(text)):
            counts[word] += 1
            counts.update(f"##{word[-length:]}" for length in (2, 3) if length < len(word))
    letters = sorted({letter for word in counts for letter in word})
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [*letters, *(f"##{letter}" for letter in letters)]
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    return [*dict.fromkeys([*special, *characters, *frequent])][:size]


def write_wordpiece(folder: Path, size: int = 400) -> int:
    """A WordPiece vocabulary of the corpus, with what surrounds it in BERT; its size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    vocabulary = {token: number for number, token in enumerate(wordpieces(size))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # [unused0] is none of these: in BERT's vocabulary, it is a token like others
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
    )
    tokenizer.enable_truncation(16)  # as some publish it: for another task than this one
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_roberta_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE on the corpus, with RoBERTa's special tokens; its size."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXTS, 500, special_tokens=special, show_progress=False)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"intermediate_size": 96, "max_position_embeddings": 64},
    "distilbert": {"hidden_dim": 96, "max_position_embeddings": 64},
    "roberta": {"intermediate_size": 96, "max_position_embeddings": 66},
    "xlm-roberta": {"intermediate_size": 96, "max_position_embeddings": 66},
}
"""Small ones that read 64 tokens: RoBERTa numbers positions from 2."""


def write_encoder_classifier(folder: Path, kind: str, **changed: Any) -> Path:
    """A small classifier of a model_type, with weights so large that texts' logits differ."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder.mkdir(parents=True)
    roberta = "roberta" in kind
    config = AutoConfig.for_model(
        kind,
        vocab_size=write_roberta_tokenizer(folder) if roberta else write_wordpiece(folder),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=1 if roberta else 0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        **{**SHAPES[kind], **changed},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    model.save_pretrained(folder)
    return folder


def convert(source: Path, target: Path, *more: str) -> Result:
    arguments = ["convert", "classifier", "--model", str(source), "-o", str(target), *more]
    return CliRunner().invoke(main, arguments)


def merged_weights(folder: Path) -> None:
    """Shards as one model.safetensors."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_graph(folder: Path, labels: Sequence[str], model_type: str = "bert") -> Path:
    """A classifier in fp32 of three nodes, with the tokenizer of the kit's ModernBERT.

    The first label is the likeliest of any text.
    """
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True)
    shutil.copyfile(kit_classifier("modernbert") / "tokenizer.json", folder / "tokenizer.json")
    config = {"model_type": model_type, "id2label": dict(enumerate(labels))}
    (folder / "config.json").write_text(json.dumps(config))
    weights = [len(labels) - number for number in range(len(labels))]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        ],
        "graph",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(labels)])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [1, len(labels)], weights)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    return folder
