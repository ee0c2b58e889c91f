"""Chat answers from a checkpoint on llama.cpp, and labels from a classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.device import gpu_layers
from charprobe_lite.runtime.engine import Engine


def chat_answers(
    model: Path, adapter: Path | None, prompts: Sequence[str], seed: int, max_tokens: int
) -> list[str]:
    """One answer per prompt, in order; empty where the prompt fills the context."""
    name = str(adapter and adapter.stem)
    with Engine(model, parallel=16, context=1024, gpu_layers=gpu_layers("auto")) as engine:
        engine.use_adapter(adapter)
        jobs = (
            Job(number, _seed(seed, name, number), _answer(prompt, max_tokens))
            for number, prompt in enumerate(prompts)
        )
        answers = {job.key: text for job, text in engine.run(jobs)}
    return [answers[number] for number in range(len(prompts))]


def labels_of(folder: Path, file: str, texts: Sequence[str]) -> list[str]:
    """The label that a classifier file gives to each text."""
    return [prediction.label for prediction in Classifier(folder, file).classify(texts)]


def _answer(prompt: str, max_tokens: int) -> Rollout:
    completion = yield Request(({"role": "user", "content": prompt},), max_tokens)
    full = completion.finish == "context" and not completion.tokens
    return "" if full else completion.text.strip()


def _seed(seed: int, checkpoint: str, number: int) -> int:
    """63 bits, as a study seeds the first sample of a prompt."""
    digest = hashlib.sha256(f"{seed}/{checkpoint}/{number}/0".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
