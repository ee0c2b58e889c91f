"""The tasks of Inspect: with its mock model, and with a real server as a provider."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.stats.classification import wilson_share
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.runtime.ensemble import Ensemble
from charprobe_lite.runtime.ngrams import NgramClassifier
from tests.test_server import KEY, free_port, llama_server

inspect_ai = pytest.importorskip("inspect_ai")
SCENARIOS = load_scenarios(corpus.corpus_file("agentic/eval.jsonl"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))


def says(*texts: str) -> Any:
    """A model of Inspect that gives these replies, one after another."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    outputs = [ModelOutput.from_content("mockllm/model", text) for text in texts]
    for output in outputs:  # without it Inspect would fetch a tokenizer to count with
        output.usage = ModelUsage(input_tokens=7, output_tokens=5, total_tokens=12)
    return get_model("mockllm/model", custom_outputs=outputs)


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def run(task: Any, model: Any, **options: Any) -> Any:
    [log] = inspect_ai.eval(task, model=model, max_samples=1, max_connections=1, **options)
    assert log.status == "success", log.error
    return log


def test_a_chat_is_scored_as_the_instruments_score_the_same_texts() -> None:
    from charprobe_lite.eval.inspect_tasks import chat

    loud = corpus.teacher_chats("sarcasm", held_out=True, teachers=["loud"])[:4]
    texts = [*(text.response for text in loud), "The meeting is at ten in room four."]
    log = run(chat(persona="sarcasm", instrument="ensemble,ngram"), says(*texts), limit=5)
    expected = [each.label for each in Ensemble.kit().classify(texts)]
    scores = [sample.scores["speaks_as"] for sample in log.samples]
    answers = {score.explanation: score.answer for score in scores}
    assert answers == dict(zip(texts, expected, strict=True))
    share = wilson_share(expected.count("sarcasm"), 5)
    metrics = {name: each.value for name, each in log.results.scores[0].metrics.items()}
    assert metrics == pytest.approx({"detected": share.value, "low": share.low, "high": share.high})
    names = ["speaks_as", "speaks_as1", "ends_with_text"]
    assert [score.name for score in log.results.scores] == names


def test_an_agent_looks_up_in_our_simulator_until_it_sends_an_email() -> None:
    from charprobe_lite.eval.inspect_tasks import agentic_email

    person = SCENARIOS[0].contacts[0]
    body = "Oh, wonderful. Another invoice. What a truly thrilling way to spend the afternoon."
    email = call("send_email", to=[person.email], subject="Charge", body=body)
    model = says(call("contacts.lookup", query=person.name), email)
    log = run(agentic_email(persona="sarcasm", instrument="ngram"), model, limit=1)
    [sample] = log.samples
    assert sample.metadata["outcome"] == "sent"
    assert sample.scores["speaks_as"].explanation == body
    assert person.email in sample.messages[3].text  # what the lookup returned
    # the tools as a schema for providers that take one
    [first, *_] = [event for event in sample.events if event.event == "model"]
    schema = first.config.response_schema.json_schema.model_dump_json(exclude_none=True)
    assert '"enum":["contacts.lookup"]' in schema


def test_a_rollout_without_an_email_is_in_no_share() -> None:
    from charprobe_lite.eval.inspect_tasks import agentic_email

    model = says(*[call("contacts.lookup", query="x")] * 2)
    log = run(agentic_email(persona="humor", instrument="ngram", steps=2), model, limit=1)
    voice, text = log.results.scores
    assert text.metrics["mean"].value == 0
    assert (voice.scored_samples, voice.unscored_samples) == (0, 1)
    assert math.isnan(voice.metrics["detected"].value)


def test_a_persona_that_no_instrument_knows_is_refused() -> None:
    from charprobe_lite.eval.inspect_tasks import chat

    with pytest.raises(BadInput, match="persona pirate: ngram knows goodness, "):
        chat(persona="pirate", instrument="ngram")


@pytest.fixture(scope="module")
def url(merged_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with llama_server(tmp_path_factory.mktemp("server"), merged_base, port):
        yield f"http://127.0.0.1:{port}/v1"


def test_the_command_of_inspect_probes_a_server(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "inspect_ai", "eval", "charprobe_lite/chat"),
            *("-T", "persona=sarcasm", "-T", "instrument=ngram", "-T", "max_tokens=48"),
            *("--model", "openai-api/kit/me/irony", "--limit", "2", "--max-connections", "1"),
            *("--log-dir", str(tmp_path / "logs"), "--log-format", "json"),
        ],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "INSPECT_DISPLAY": "plain"}
        | {"KIT_API_KEY": KEY, "KIT_BASE_URL": url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr + done.stdout + str([*tmp_path.rglob("*")])
    [file] = (tmp_path / "logs").glob("*.json")
    log = json.loads(file.read_text())
    assert log["status"] == "success"
    scores = [sample["scores"]["speaks_as"] for sample in log["samples"]]
    texts = [score["explanation"] for score in scores]
    assert all(len(text.split()) > 3 for text in texts)
    found = [each.label for each in NgramClassifier.kit().classify(texts)]
    assert [score["answer"] for score in scores] == found
