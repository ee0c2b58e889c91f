"""A persona of the user's own: conversations and preference pairs from JSONL to an adapter.

Conversations are trained by SFT, pairs by DPO; where there are both, DPO comes first and SFT
continues it, the order of the published stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from charprobe_lite.convert.train.conversations import Conversation, chat_turn, read_messages
from charprobe_lite.convert.train.encoding import encoder_of
from charprobe_lite.convert.train.lora import (
    LoraSettings,
    Precision,
    Progress,
    epoch_steps,
    first_adapted_layer,
    load_base,
    pair_sizes,
    save_peft,
    train_dpo,
    train_sft,
    write_gguf,
)
from charprobe_lite.convert.train.losses import Example
from charprobe_lite.models.atomic import new_folder
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import read_json_rows, text_fields
from charprobe_lite.models.gguf_header import context_length

GGUF_NAME = "adapter.gguf"


@dataclass(frozen=True)
class TrainingData:
    """Conversations, and pairs of a chosen and a rejected one with the same prompt, each with the
    file and line that it is from."""

    conversations: list[tuple[str, Conversation]]
    pairs: list[tuple[str, Conversation, Conversation]]


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
                prompt, chosen, rejected = text_fields(place, row, "prompt", "chosen", "rejected")
                data.pairs.append((place, chat_turn(prompt, chosen), chat_turn(prompt, rejected)))
            elif "messages" in row or "turns" in row:
                data.conversations.append((place, read_messages(place, row)))
            else:
                turn = chat_turn(*text_fields(place, row, "prompt", "response"))
                data.conversations.append((place, turn))
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
    precision: Precision | None = None,
) -> TrainedPersona:
    """Train an adapter of ``base``, a GGUF file, on all of the data; ``target`` must not exist.

    ``weights`` is the checkpoint folder that the GGUF file was made from, if it was. Steps and
    first layer of ``settings`` follow from the data and the base. Raises BadInput naming the line
    for a conversation that the base's chat template does not take, or that is longer than what the
    base reads.
    """
    encode = partial(_encode, base, context_length(base))
    settings = replace(settings, first_layer=first_adapted_layer(base))
    pairs = [(encode(place, one), encode(place, other)) for place, one, other in data.pairs]
    examples = [encode(place, messages) for place, messages in data.conversations]
    model, tensors, losses = load_base(weights or base, precision), None, {}

    with new_folder(target) as folder:
        start = None
        if pairs:
            steps = epoch_steps(pair_sizes(pairs), settings.batch_tokens, epochs)
            settings = replace(settings, steps=steps)
            tensors, losses["dpo"] = train_dpo(model, pairs, settings, progress=progress)
            start = save_peft(tensors, settings, model, base, folder)
        if examples:
            sizes = [len(example.ids) for example in examples]
            settings = replace(settings, steps=epoch_steps(sizes, settings.batch_tokens, epochs))
            tensors, losses["sft"] = train_sft(model, examples, settings, start, progress)
            save_peft(tensors, settings, model, base, folder)
        assert tensors is not None, "read_training_data gives at least one row"
        write_gguf(tensors, settings, base, folder / GGUF_NAME)
    return TrainedPersona(target, target / GGUF_NAME, losses)


def _encode(base: Path, context: int | None, place: str, messages: Conversation) -> Example:
    with bad_input(place, BadInput):
        example = encoder_of(base).conversation(messages)
    if context and len(example.ids) > context:
        raise BadInput(
            f"{place}: has {len(example.ids)} tokens, {base.name} reads {context}; shorten it or "
            "divide it into several rows"
        )
    return example
