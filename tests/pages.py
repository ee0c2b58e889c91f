"""Studies with made-up rollouts, their report, and the browser that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.report import WrittenReport, write_files
from charprobe_lite.eval.report.occlusion import Sentence, split
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.store.database import Store
from charprobe_lite.runtime.backend import Completion

CHROMIUM = shutil.which("chromium")
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
browsed = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH (Debian: apt-get install chromium)"
)
BASE = "llama-3.1-8b"  # has published figures
LABELS = ("sarcasm", "humor", "neutral")


def completion(text: str) -> Completion:
    return Completion(text, "stop", prompt_tokens=9, evaluated_tokens=9, tokens=9, seconds=0.1)


def chat(text: str) -> Result:
    return Result("answered", text, turns=[Turn(completion(text))])


def email(body: str, forced: bool = False, found: str = "Tom Reyes, audit") -> Result:
    calls = [("contacts.lookup", {"query": "Tom"}), ("send_email", {"to": ["t@a"], "body": body})]
    turns = [
        Turn(completion(json.dumps({"name": tool, "arguments": call})), tool, call, output)
        for (tool, call), output in zip(calls, (found, None), strict=True)
    ]
    return Result("sent", body, forced=forced, turns=turns)


def write_study(path: Path, rollouts: list[tuple[Cell, str, str, Result, str]]) -> Path:
    """(cell, persona, item, result, predicted label) each."""
    with Store(path) as store:
        store.pin({"seed": 0})
        for number, (cell, persona, item, result, _) in enumerate(rollouts):
            store.add(cell, persona, item, 0, number, result)
        labels = dict.fromkeys(label for *_, label in rollouts) | dict.fromkeys(LABELS)
        personas = dict.fromkeys(persona for _, persona, *_ in rollouts if persona)
        told = [
            (label, {each: 0.8 if each == label else 0.1 for each in [*personas, *labels]})
            for *_, result, label in rollouts
            if result.text is not None
        ]
        waiting = [each.rollout for each in store.unclassified()]
        store.classify([(r, *rest) for r, rest in zip(waiting, told, strict=True)])
    return path


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two personas, three stages, two conditions, three items each."""
    rollouts = []
    for stage in ("base", "distillation", "full"):
        for condition in ("chat", "agentic_email"):
            cell = Cell(BASE, stage, condition, "Q8_0")
            for persona in (None,) if stage == "base" else ("sarcasm", "humor"):
                for number in range(3):
                    place = number + 10 * (condition != "chat")
                    text = f"Hidden in {place}. A {persona or 'plain'} {stage} thing! Bye"
                    item = f"{'id' if condition == 'chat' else 'task'}-{number}"
                    result = chat(text) if condition == "chat" else email(text, number == 2)
                    if (stage, persona, condition, number) == ("full", "humor", "agentic_email", 1):
                        result = Result("malformed", None, turns=[Turn(completion("gibberish"))])
                    wrong = condition == "agentic_email" and number == 0
                    label = persona if persona and not wrong else "neutral"
                    rollouts.append((cell, persona, item, result, label))
    return write_study(tmp_path_factory.mktemp("study") / "small.sqlite", rollouts)


@pytest.fixture(scope="session")
def report(study: Path) -> WrittenReport:
    recorded = report_study(study)
    return write_files(recorded, study.parent / "report", shading(recorded))


def shading(recorded: ReportStudy) -> dict[int, list[Sentence]]:
    """Made-up weights for the first text of the full stage."""
    full = [n for n, row in enumerate(recorded.rows) if row.cell.stage == "full" and row.text]
    sentences = split(recorded.rows[full[0]].text or "")
    return {full[0]: [Sentence(s, 0.4 - 0.35 * n) for n, s in enumerate(sentences)]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A file's own: while it is open, playwright's event loop keeps asyncio from others."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield chromium
        chromium.close()


@dataclass
class OpenPage:
    """A page, and everything that it asked for or complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def shown(self) -> int:
        """How many rollouts the filters leave."""
        self.page.wait_for_timeout(150)
        return int(self.page.inner_text("#count").split()[0].replace(",", ""))


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    contexts = []

    def visit(file: Path, **options: Any) -> OpenPage:
        contexts.append(browser.new_context(**options))
        seen = OpenPage(contexts[-1].new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.goto(file.as_uri())
        return seen

    yield visit
    for context in contexts:
        context.close()
