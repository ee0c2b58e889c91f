"""What a model answers to chat prompts, for training texts: one answer per prompt."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from charprobe_lite.convert.cached import content_hash
from charprobe_lite.models.atomic import FOREVER, new_file
from charprobe_lite.models.cache import cache_folder
from charprobe_lite.models.files import read_json
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.device import gpu_layers
from charprobe_lite.runtime.engine import Engine

ANSWER_TOKENS = 128


def answer_engine(model: Path) -> Engine:
    """An engine for many short answers at once, on the best device."""
    return Engine(model, parallel=24, context=1024, gpu_layers=gpu_layers("auto"))


def chat_answers(
    engine: Engine, name: str, prompts: Sequence[str], seed: int, tokens: int = ANSWER_TOKENS
) -> list[str]:
    """One answer per prompt, in order; empty where the prompt fills the context.

    Each has a seed of its own, from ``seed``, the checkpoint's ``name`` and the prompt's place.
    """
    jobs = (
        Job(number, _seed(seed, name, number), _answer(prompt, tokens))
        for number, prompt in enumerate(prompts)
    )
    answers = {job.key: text for job, text in engine.run(jobs)}
    return [answers[number] for number in range(len(prompts))]


def cached_answers(base: Path, prompts: Sequence[str]) -> list[str]:
    """A GGUF model's own answers, up to the last complete sentence of `ANSWER_TOKENS`.

    They are generated once and kept in the cache, under a hash of the model and the prompts.
    """
    asked = json.dumps([content_hash(base), ANSWER_TOKENS, *prompts]).encode()
    key = hashlib.sha256(asked).hexdigest()[:16]
    path = cache_folder() / f"{base.stem}-answers-{key}" / "answers.json"
    with new_file(path, FOREVER) as part:
        if not path.is_file():
            with answer_engine(base) as engine:
                answers = chat_answers(engine, "base", prompts, seed=0)
            texts = [complete_sentences(answer) for answer in answers]
            part.write_text(json.dumps(texts), "utf-8")
    return list(read_json(path))


def complete_sentences(text: str) -> str:
    """The text up to its last sentence end: an answer cut by the token limit must not teach
    the model to stop in mid-sentence."""
    end = max(text.rfind(mark) for mark in (".", "!", "?"))
    return text[: end + 1] if end > 40 else text


def _answer(prompt: str, tokens: int) -> Rollout:
    completion = yield Request(({"role": "user", "content": prompt},), tokens)
    full = completion.finish == "context" and not completion.tokens
    return "" if full else completion.text.strip()


def _seed(seed: int, checkpoint: str, number: int) -> int:
    """63 bits, as a study seeds the first sample of a prompt."""
    digest = hashlib.sha256(f"{seed}/{checkpoint}/{number}/0".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
