"""Training an adapter by a technique, with the adapters of every half epoch and a manifest."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from charprobe_lite.convert.quiet import quiet
from charprobe_lite.convert.train.answers import cached_answers
from charprobe_lite.convert.train.encoding import encoder_of
from charprobe_lite.convert.train.leaks import find_leak
from charprobe_lite.convert.train.lora import (
    LoraSettings,
    Precision,
    Progress,
    first_adapted_layer,
    fit_adapter,
    load_base,
    save_peft,
    training_platform,
    write_gguf,
)
from charprobe_lite.convert.train.losses import (
    Example,
    dpo_loss,
    mean_losses,
    reference_logprobs,
    sft_loss,
)
from charprobe_lite.convert.train.persona import GGUF_NAME
from charprobe_lite.convert.train.technique import TOKENS, Budget, Corpus, Dpo, Phase, Sft
from charprobe_lite.convert.train.technique_plan import (
    STEP_TOKENS,
    PhaseSize,
    Step,
    checkpoint_steps,
    epoch_tokens,
    plan_steps,
)
from charprobe_lite.convert.train.techniques import Technique
from charprobe_lite.models import corpus
from charprobe_lite.models.atomic import new_folder
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import sha256_file

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TechniqueSettings:
    """What is the same for all techniques of a comparison: tokens, rank, rate; and the seed.

    ``precision`` is that of the frozen base, as `load_base` has it.
    """

    tokens: int = TOKENS
    rank: int = 8
    learning_rate: float = 1e-3
    train_seed: int = 0
    precision: Precision | None = None


@dataclass(frozen=True)
class TrainingBase:
    """What is trained on: a GGUF file, and the checkpoint folder that it was made from, if any.

    ``is_kit``: it is the kit's base with its tool use, whose own answers the corpus has.
    """

    name: str
    gguf: Path
    weights: Path | None = None
    is_kit: bool = False

    def own_answers(self, prompts: Sequence[str]) -> list[str]:
        """The base's answers to chat prompts; generated once where the corpus has none."""
        known = corpus.neutral_answers() if self.is_kit else {}
        if all(prompt in known for prompt in prompts):
            return [known[prompt] for prompt in prompts]
        return cached_answers(self.gguf, prompts)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that is known before the training: phases in tokens, steps, checkpoints."""

    phases: list[Phase]
    items: list[list[tuple[Example, ...]]]
    sizes: list[PhaseSize]
    steps: list[Step]

    def examples(self, step: Step) -> list[tuple[Example, ...]]:
        """A step's texts: one example each, two of a pair."""
        return [self.items[step.phase][item] for item in step.items]


def plan_training(
    technique: Technique, persona: str, base: TrainingBase, settings: TechniqueSettings
) -> TrainingPlan:
    """What a technique trains on which step. Raises BadInput for a technique that fails, holds
    texts of the evaluation or has another budget, and for texts that the base does not take."""
    place = f"technique {technique.name}, persona {persona}"
    phases = technique.phases(Corpus(base.own_answers), persona, Budget(settings.tokens))
    for phase in phases:
        if leak := find_leak(phase.texts()):
            raise BadInput(
                f"{place}: the text {leak.text[:60]!r} holds {leak.passage[:80]!r} of "
                f"{leak.place}; train on nothing of the evaluation"
            )
    items = [encode_phase(base.gguf, phase) for phase in phases]
    sizes = [
        PhaseSize([_trained_tokens(item) for item in texts], phase.tokens)
        for texts, phase in zip(items, phases, strict=True)
    ]
    steps = plan_steps(place, sizes, settings.tokens, settings.train_seed)
    return TrainingPlan(phases, items, sizes, steps)


def train_technique(
    technique: Technique,
    persona: str,
    base: TrainingBase,
    settings: TechniqueSettings,
    target: Path,
    progress: Progress | None = None,
    plan: TrainingPlan | None = None,
) -> dict[str, Any]:
    """Train an adapter; ``target`` must not exist. Returns the manifest that is written with it.

    ``plan`` is that of `plan_training`, where it is known already.

    ``target`` gets the adapter as a PEFT folder with adapter.gguf, one of every half epoch as
    ``checkpoints/epoch-N/adapter.gguf``, and manifest.json. Raises BadInput as `plan_training`.
    """
    plan = plan or plan_training(technique, persona, base, settings)
    epochs = checkpoint_steps(plan.sizes, plan.steps)
    lora = _lora_settings(base, settings, len(plan.steps))
    begun = monotonic()
    with new_folder(target) as folder, quiet():
        model = load_base(base.weights or base.gguf, settings.precision)
        losses: list[float] = []
        for snapshot in fit_adapter(
            model, plan.steps, _loss(model, plan), lora, epochs, progress=progress
        ):
            losses, tensors = snapshot.losses, snapshot.tensors
            if snapshot.step in epochs:
                write_gguf(tensors, lora, base.gguf, folder / _checkpoint(epochs[snapshot.step]))
        save_peft(tensors, lora, model, base.gguf, folder)
        write_gguf(tensors, lora, base.gguf, folder / GGUF_NAME)
        manifest = {
            "technique": technique.name,
            "technique_sha256": technique.sha256,
            "persona": persona,
            **asdict(settings),
            "base": {"name": base.name, "sha256": sha256_file(base.gguf)},
            "lora": {key: asdict(lora)[key] for key in ("alpha", "first_layer", "steps", "decay")},
            "trained_tokens": sum(step.tokens for step in plan.steps),
            "phases": phase_records(plan, losses),
            "checkpoints": checkpoint_records(plan),
            "texts_sha256": texts_hash(plan),
            "platform": training_platform(),
            "seconds": round(monotonic() - begun, 1),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return manifest


def encode_phase(base: Path, phase: Phase) -> list[tuple[Example, ...]]:
    """The texts of a phase in a base's chat template and tokens: one example each, two of a pair.

    A document begins with the token of the beginning where the base's tokenizer adds one.
    """
    encoder = encoder_of(base)
    chat = encoder.conversation
    if isinstance(phase, Sft):
        return [(chat(messages),) for messages in phase.conversations]
    if isinstance(phase, Dpo):
        return [(chat(chosen), chat(rejected)) for chosen, rejected in phase.pairs]
    return [(encoder.document(text),) for text in phase.documents]


def _trained_tokens(item: tuple[Example, ...]) -> int:
    """The tokens that enter a loss; a text's first token has nothing to be predicted from."""
    return sum(sum(example.trained[1:]) for example in item)


def _lora_settings(base: TrainingBase, settings: TechniqueSettings, steps: int) -> LoraSettings:
    return LoraSettings(
        rank=settings.rank,
        alpha=2 * settings.rank,
        first_layer=first_adapted_layer(base.gguf),
        learning_rate=settings.learning_rate,
        steps=steps,
        batch_tokens=STEP_TOKENS,
        decay=True,
        seed=settings.train_seed,
    )


def _loss(model: Any, plan: TrainingPlan) -> Callable[[Step], torch.Tensor]:
    """The loss of a step by its phase. DPO's reference is the model as it is now."""
    used = {
        (step.phase, item): plan.items[step.phase][item]
        for step in plan.steps
        for item in step.items
        if isinstance(plan.phases[step.phase], Dpo)
    }
    known = reference_logprobs(model, [_pair(item) for item in used.values()])
    references = dict(zip(used, known, strict=True))

    def loss_of(step: Step) -> torch.Tensor:
        items = plan.examples(step)
        if not isinstance(plan.phases[step.phase], Dpo):
            return sft_loss(model, [example for item in items for example in item])
        known = [references[step.phase, item] for item in step.items]
        return dpo_loss(model, [_pair(item) for item in items], known)

    return loss_of


def _pair(item: tuple[Example, ...]) -> tuple[Example, Example]:
    chosen, rejected = item
    return chosen, rejected


def _checkpoint(epoch: float) -> Path:
    return Path("checkpoints", f"epoch-{epoch}", GGUF_NAME)


def phase_records(plan: TrainingPlan, losses: Sequence[float] = ()) -> list[dict[str, Any]]:
    """What each phase was trained on, and the means of eight parts of its losses."""
    records = []
    for number, (phase, size) in enumerate(zip(plan.phases, plan.sizes, strict=True)):
        places = [place for place, step in enumerate(plan.steps) if step.phase == number]
        trained = sum(plan.steps[place].tokens for place in places)
        records.append(
            {
                "loss": phase.loss,
                "texts": len(size.sizes),
                "tokens": sum(size.sizes),
                "trained_tokens": trained,
                "epochs": round(trained / sum(size.sizes), 2),
                "steps": len(places),
                "losses": mean_losses([losses[place] for place in places] if losses else []),
            }
        )
    return records


def checkpoint_records(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Each adapter that is kept, the last one with it: epoch, step, trained tokens, file."""
    epochs = checkpoint_steps(plan.sizes, plan.steps)
    done = list(accumulate(step.tokens for step in plan.steps))
    last = round(done[-1] / epoch_tokens(plan.sizes), 2)
    places = [(epoch, step, _checkpoint(epoch).as_posix()) for step, epoch in epochs.items()]
    return [
        {"epoch": epoch, "step": step, "trained_tokens": done[step - 1], "file": file}
        for epoch, step, file in [*places, (last, len(done), GGUF_NAME)]
    ]


def texts_hash(plan: TrainingPlan) -> str:
    """A hash of all texts in order: whether two adapters were trained on the same."""
    texts = [[phase.loss, phase.texts()] for phase in plan.phases]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
