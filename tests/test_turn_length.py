"""A context is no longer than the rollouts of a study can become, and that changes no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.study import runner
from charprobe_lite.eval.study.run import SILENT, run_rollouts
from charprobe_lite.eval.study.spec import parse_spec
from charprobe_lite.runtime.backend import BackendOptions, Job, Request, open_backend
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.turn_length import longest_turn


def request(text: str, max_tokens: int) -> Request:
    return Request(({"role": "user", "content": text},), max_tokens)


def test_the_longest_prompt_with_its_reply_as_transformers_counts(merged_base: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        merged_base.parent, gguf_file=merged_base.name
    )
    requests = [request("Hello there. " * times, 100) for times in (5, 150)]
    messages = [{"role": "user", "content": "Hello there. " * 150}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert longest_turn(merged_base, requests) == -(-(len(ids) + 100 + 2) // 256) * 256
    assert longest_turn(merged_base, requests[:1]) == 256


def test_a_shorter_context_changes_no_text(merged_base: Path) -> None:
    def rollout() -> Any:
        return (yield request("Tell me of the harbour.", 40)).text

    texts = []
    for context in (256, 2560):
        with Engine(merged_base, parallel=1, context=context, threads=1) as engine:
            texts += [text for _, text in engine.run([Job("a", 1, rollout())])]
    assert len(texts[0]) > 40
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("conditions", "expected"), [(["chat"], 256), (["chat", "agentic_email"], 2560)]
)
def test_chats_take_what_they_need_and_agents_what_they_may(
    conditions: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(name: str, model: Any, options: BackendOptions) -> Any:
        seen.append(options.context)
        return open_backend(name, model, options)

    monkeypatch.setattr(runner, "open_backend", watched)
    asked = {"stage": "base", "persona": "sarcasm", "limit": 1, "max_tokens": 8, "steps": 1}
    options = {"instrument": "ngram", "threads": 1, "condition": conditions}
    spec = parse_spec({**asked, **options, "study": tmp_path / "s.sqlite"})
    run_rollouts(spec, SILENT)
    assert seen == [expected]
