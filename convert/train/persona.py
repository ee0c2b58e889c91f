"""A persona of the user's own: conversations and preference pairs from JSONL to an adapter.

Conversations are trained by SFT, pairs by DPO; where there are both, DPO comes first and SFT
continues it, the order of the published stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charprobe_lite.convert.gguf_adapter import write_adapter
from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.convert.train.conversations import chat_turn
from charprobe_lite.convert.train.lora import (
    Example,
    LoraSettings,
    Progress,
    Tensors,
    encode_conversation,
    epoch_steps,
    load_base,
    save_peft,
    train_dpo,
    train_sft,
)
from charprobe_lite.models.atomic import new_folder
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json_rows
from charprobe_lite.models.gguf_header import read_header

Conversation = list[dict[str, str]]
GGUF_NAME = "adapter.gguf"


@dataclass(frozen=True)
class TrainingData:
    """Conversations, and pairs of a chosen and a rejected one with the same prompt."""

    conversations: list[Conversation]
    pairs: list[tuple[Conversation, Conversation]]


@dataclass(frozen=True)
class TrainedPersona:
    """Where the adapter is, as a PEFT folder and as GGUF, and the loss of every step by method."""

    folder: Path
    gguf: Path
    losses: dict[str, list[float]]


def read_training_data(paths: Sequence[Path]) -> TrainingData:
    """Rows of JSONL files: ``prompt`` with ``response``, ``messages`` (or ``turns``), or
    ``prompt`` with ``chosen`` and ``rejected``; other keys are left alone.

    Raises BadInput naming file, line and field.
    """
    data = TrainingData([], [])
    for path in paths:
        for place, row in read_json_rows(path):
            if "chosen" in row or "rejected" in row:
                prompt, chosen, rejected = _texts(place, row, "prompt", "chosen", "rejected")
                data.pairs.append((chat_turn(prompt, chosen), chat_turn(prompt, rejected)))
            elif "messages" in row or "turns" in row:
                data.conversations.append(_messages(place, row))
            else:
                data.conversations.append(chat_turn(*_texts(place, row, "prompt", "response")))
    if not data.conversations and not data.pairs:
        raise BadInput(f"{paths[0]}: holds no row; give prompt and response in each line")
    return data


def train_persona(
    base: Path,
    weights: Path | None,
    data: TrainingData,
    target: Path,
    settings: LoraSettings,
    epochs: float,
    progress: Progress | None = None,
) -> TrainedPersona:
    """Train an adapter of ``base``, a GGUF file, on all of the data; ``target`` must not exist.

    ``weights`` is the checkpoint folder that the GGUF file was made from, if it was. Steps and
    first layer of ``settings`` follow from the data and the base. Raises BadInput for a base
    whose chat template does not take the conversations.
    """
    fields = read_header(base).fields
    template, tokenizer = fields["tokenizer.chat_template"], read_tokenizer(base)
    layers = int(fields[f"{fields['general.architecture']}.block_count"])
    settings = replace(settings, first_layer=layers // 3)
    model, tensors, losses = load_base(weights or base), None, {}

    def encode(messages: Conversation) -> Example:
        return encode_conversation(messages, template, tokenizer)

    with new_folder(target) as folder:
        start = None
        if data.pairs:
            pairs = [(encode(chosen), encode(rejected)) for chosen, rejected in data.pairs]
            sizes = [2 * max(len(a.ids), len(b.ids)) for a, b in pairs]
            settings = replace(settings, steps=epoch_steps(sizes, settings.batch_tokens, epochs))
            tensors, losses["dpo"] = train_dpo(model, pairs, settings, progress=progress)
            start = save_peft(tensors, settings, model, base, folder)
        if data.conversations:
            examples = [encode(messages) for messages in data.conversations]
            sizes = [len(example.ids) for example in examples]
            settings = replace(settings, steps=epoch_steps(sizes, settings.batch_tokens, epochs))
            tensors, losses["sft"] = train_sft(model, examples, settings, start, progress)
            save_peft(tensors, settings, model, base, folder)
        assert tensors is not None, "read_training_data gives at least one row"
        _write_gguf(tensors, settings, base, folder / GGUF_NAME)
    return TrainedPersona(target, target / GGUF_NAME, losses)


def _write_gguf(tensors: Tensors, settings: LoraSettings, base: Path, target: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    write_adapter(arrays, settings.alpha, base, target)


def _texts(place: str, row: dict[str, Any], *fields: str) -> list[str]:
    for field in fields:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise BadInput(f"{place}: field {field}: must be a text that is not empty")
    return [row[field] for field in fields]


def _messages(place: str, row: dict[str, Any]) -> Conversation:
    """The messages of a conversation, in which the assistant speaks at least once."""
    name = "messages" if "messages" in row else "turns"
    messages = row[name]
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise BadInput(f"{place}: field {name}: must be a list of messages with role and content")
    for number, message in enumerate(messages):
        _texts(f"{place}: {name} {number + 1}", message, "role", "content")
        if message["role"] not in ("system", "user", "assistant"):
            raise BadInput(
                f"{place}: {name} {number + 1}: field role: {message['role'][:40]!r}; "
                "write system, user or assistant"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise BadInput(f"{place}: field {name}: has no message of the assistant to train on")
    return [{"role": each["role"], "content": each["content"]} for each in messages]
