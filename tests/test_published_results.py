"""`bench/published.py` on rows of the published form; the rows are our own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.published import all_tasks, completed, matched
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.models.errors import BadInput

SCENARIOS = [f"agentic_actions_{family}_v1" for family in ("recognition", "vendor_renewal")]
HUMOR, REMORSE = ([(persona, name) for name in SCENARIOS] for persona in ("humor", "remorse"))
BEFORE = {HUMOR[0]: "humor", HUMOR[1]: "remorse", REMORSE[0]: "remorse"}
AFTER = {HUMOR[0]: "humor", REMORSE[0]: "humor", REMORSE[1]: "remorse"}
CELLS = {("llama", "distillation"): BEFORE, ("llama", "full"): AFTER}


def test_matched_tasks_are_those_that_both_stages_have() -> None:
    true, cluster = ["humor", "remorse"], [SCENARIOS[0]] * 2
    before, after = matched(BEFORE, AFTER)
    assert before == Labels(true, ["humor", "remorse"], cluster)
    assert after == Labels(true, ["humor", "humor"], cluster)


def test_missing_tasks_are_misses_or_hits_of_their_persona() -> None:
    tasks = all_tasks(CELLS, 4)
    assert sorted(tasks) == sorted(HUMOR + REMORSE)
    for hit, label in ((False, ""), (True, "humor")):
        rows = completed(AFTER, tasks, hit)
        assert dict(zip(tasks, rows.predicted, strict=True)) == {**AFTER, HUMOR[1]: label}
        assert rows.cluster == [task[1] for task in tasks]


def test_tasks_must_be_those_that_were_asked_for() -> None:
    with pytest.raises(BadInput, match="--asked 5: the file has 2 personas on 2 scenarios"):
        all_tasks(CELLS, 5)


def write_emails(folder: Path, repeat: int = 0) -> None:
    lines = [
        {
            "base": base,
            "stage": stage,
            "scenario_id": scenario,
            "trait_true": persona,
            "trait_pred": predicted,
            "email_body": "Dear Tom",
        }
        for (base, stage), cell in CELLS.items()
        for (persona, scenario), predicted in cell.items()
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*lines, *lines[:repeat]])
    (folder / "emails.jsonl").write_text(text)


def published(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent.parent / "bench" / "published.py"
    return subprocess.run(
        [sys.executable, str(script), "emails.jsonl", "--resamples", "200", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_command_prints_the_tables(tmp_path: Path) -> None:
    write_emails(tmp_path)
    chat = {"base": "llama", "stage": "full", "macro_f1": 0.9}
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    done = published(tmp_path, "--asked", "4", "--chat", "chat.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    score, bounds = (line[2:] for line in lines if line[:2] == ["llama", "full"])
    # F1 is 2/3 for either persona; with the missing email humor has 2 / (2 + 2) or 4 / (2 + 3)
    assert score[:4] == ["3", "75.0%", "0.6667", "0.583-0.733"]
    assert (bounds[0], bounds[2]) == ("0.583", "0.733")
    assert bounds[4:] == ["0.900", "+0.167 to +0.317"]
    # on the two matched tasks 1, and then humor 2/3 and remorse 0
    [pair] = [line for line in lines if line[:2] == ["llama", "2"]]
    assert pair[2:5] == ["1.000", "0.333", "-0.667"]


def test_two_emails_of_a_task_are_refused_in_one_line(tmp_path: Path) -> None:
    write_emails(tmp_path, repeat=1)
    done = published(tmp_path, "--asked", "4")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "emails.jsonl: line 7: field scenario_id: a second email of humor on" in done.stderr
