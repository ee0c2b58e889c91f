"""Train persona classifiers on labelled texts: a pretrained encoder, or a small ModernBERT.

MiniLM: Wang et al. 2020, arXiv 2002.10957. ModernBERT: Warner et al. 2024, arXiv 2412.13663; its
embedding table starts from the principal directions (truncated SVD) of the base model's own.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.convert.train.lora import Progress, best_device
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json_rows, text_fields

MAX_TOKENS = 256


@dataclass(frozen=True)
class FineTuning:
    """How a pretrained encoder is trained; ``crop_words``: fewest and most words of a crop."""

    epochs: int = 6
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    batch: int = 32
    crop_words: tuple[int, int] = (40, 100)
    seed: int = 0


@dataclass(frozen=True)
class ClassifierSettings:
    """Size and training of the kit's classifier."""

    vocabulary: int = 12288
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    epochs: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch: int = 32
    seed: int = 0


def train_classifier(
    texts: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str],
    base: Path,
    target: Path,
    settings: ClassifierSettings,
    progress: Progress | None = None,
) -> list[float]:
    """Train on ``texts`` with ``labels`` (each one of ``names``) and save to ``target``.

    ``base`` is the GGUF file whose tokenizer (its first ``vocabulary`` tokens) and embedding
    table are used. Writes transformers' files (model, config with id2label, tokenizer). Returns
    the loss of each step.
    """
    torch.manual_seed(settings.seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read_tokenizer(base, settings.vocabulary),
        pad_token="<|endoftext|>",
        model_max_length=MAX_TOKENS,
    )
    model = _new_model(names, base, settings)
    encoded = [tokenizer(text, truncation=True).input_ids for text in texts]
    losses = _fit(model, tokenizer, lambda _: encoded, labels, names, settings, progress)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return losses


def read_labelled_texts(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The ``text`` and ``label`` of every row of JSONL files.

    Raises BadInput naming file, line and field, and for fewer than three labels.
    """
    texts, labels = [], []
    for path in paths:
        for place, row in read_json_rows(path):
            text, label = text_fields(place, row, "text", "label")
            texts.append(text)
            labels.append(label)
    if len(set(labels)) < 3:
        known = ", ".join(sorted(set(labels))) or "none"
        raise BadInput(f"{paths[0]}: field label: at least three labels are needed, has {known}")
    return texts, labels


def hold_out(labels: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of about ``share`` of the texts of every label, drawn with ``seed``: at least one,
    and not all."""
    rng, held_out = random.Random(f"{seed}/held-out"), []
    for label in sorted(set(labels)):
        places = [index for index, other in enumerate(labels) if other == label]
        if len(places) < 2:
            raise BadInput(f"label {label}: has one text; give at least two, one is held out")
        held_out += rng.sample(places, min(max(1, round(share * len(places))), len(places) - 1))
    return sorted(held_out)


def fine_tune(
    encoder: Path,
    texts: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str],
    target: Path,
    settings: FineTuning,
    progress: Progress | None = None,
) -> list[float]:
    """Fine-tune the pretrained ``encoder``, a folder of transformers, and save it to ``target``.

    In every epoch a text is read by one crop of it, so that the form of complete texts, and with
    it their kind, teaches less. Returns the loss of each step.
    """
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(str(encoder), local_files_only=True)
    tokenizer.model_max_length = MAX_TOKENS
    model = AutoModelForSequenceClassification.from_pretrained(
        str(encoder),
        local_files_only=True,
        use_safetensors=True,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )

    def crops(epoch: int) -> list[list[int]]:
        rng = random.Random(f"{settings.seed}/crop/{epoch}")
        cut = [random_crop(text, settings.crop_words, rng) for text in texts]
        return [tokenizer(text, truncation=True).input_ids for text in cut]

    losses = _fit(model, tokenizer, crops, labels, names, settings, progress)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return losses


def random_crop(text: str, words: tuple[int, int], rng: random.Random) -> str:
    """Consecutive words of a text, as many as drawn; all of a text that has fewer."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    count = rng.randint(*words)
    if len(starts) <= count:
        return text
    first = rng.randrange(len(starts) - count + 1)
    end = starts[first + count] if first + count < len(starts) else len(text)
    return text[starts[first] : end].rstrip()


def _fit(
    model: Any,
    tokenizer: Any,
    encode: Callable[[int], Sequence[Sequence[int]]],
    labels: Sequence[str],
    names: Sequence[str],
    settings: ClassifierSettings | FineTuning,
    progress: Progress | None,
) -> list[float]:
    """AdamW with one cycle of the rate; ``encode`` gives an epoch's token ids. Loss per step."""
    device = best_device()
    model.to(device).train()
    targets = [names.index(label) for label in labels]
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * -(-len(labels) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps, pct_start=0.1
    )
    losses: list[float] = []
    for epoch in range(settings.epochs):
        encoded = encode(epoch)
        for batch in _length_batches(encoded, settings, epoch):
            padded = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            logits = model(**padded.to(device)).logits
            expected = torch.tensor([targets[i] for i in batch], device=device)
            loss = torch.nn.functional.cross_entropy(logits, expected, label_smoothing=0.05)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(loss.item())
            if progress:
                progress(len(losses), steps, losses[-1])
    model.eval().to("cpu")
    return losses


def _new_model(names: Sequence[str], base: Path, settings: ClassifierSettings) -> Any:
    config = ModernBertConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=2 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=MAX_TOKENS,
        local_attention=64,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        classifier_pooling="mean",
        embedding_dropout=0.1,
        mlp_dropout=0.1,
        classifier_dropout=0.1,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        attn_implementation="sdpa",
        reference_compile=False,
    )
    model = ModernBertForSequenceClassification(config)
    table = next(t for t in gguf.GGUFReader(base).tensors if t.name == "token_embd.weight")
    rows = gguf.dequantize(table.data, table.tensor_type)[: settings.vocabulary]
    left, scale, _ = torch.svd_lowrank(torch.tensor(rows).float(), q=settings.hidden, niter=4)
    projected = left * scale
    with torch.no_grad():
        embeddings = model.model.embeddings.tok_embeddings.weight
        embeddings.copy_(projected * (embeddings.std() / projected.std()))
    return model


def _length_batches(
    encoded: Sequence[Sequence[int]], settings: ClassifierSettings | FineTuning, epoch: int
) -> list[list[int]]:
    """Batches of texts alike in length, in an order that depends on seed and epoch."""
    rng = random.Random(f"{settings.seed}/{epoch}")
    order = list(range(len(encoded)))
    rng.shuffle(order)
    order.sort(key=lambda i: len(encoded[i]) // 16)
    batches = [order[i : i + settings.batch] for i in range(0, len(order), settings.batch)]
    rng.shuffle(batches)
    return batches
