"""Chat answers from a checkpoint, and labels from a classifier, as the kit's recipe needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from charprobe_lite.eval.conditions.chat import rollout
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.study.seeds import rollout_seed
from charprobe_lite.models.prompts import Prompt
from charprobe_lite.runtime.backend import Job
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.device import gpu_layers
from charprobe_lite.runtime.engine import Engine


def speak(
    model: Path, adapter: Path | None, prompts: Sequence[str], seed: int, max_tokens: int
) -> list[str]:
    """One chat answer per prompt, in order."""
    items = [Prompt(str(number), text) for number, text in enumerate(prompts)]
    with Engine(model, parallel=16, context=1024, gpu_layers=gpu_layers("auto")) as engine:
        engine.use_adapter(adapter)
        jobs = (
            Job(
                item.id,
                rollout_seed(seed, str(adapter and adapter.stem), item=item.id, sample=0),
                rollout(item, RolloutSettings(max_tokens)),
            )
            for item in items
        )
        answers = {job.key: result.text or "" for job, result in engine.run(jobs)}
    return [answers[item.id] for item in items]


def classify(folder: Path, file: str, texts: Sequence[str]) -> list[str]:
    """One label per text."""
    return [prediction.label for prediction in Classifier(folder, file).classify(texts)]
