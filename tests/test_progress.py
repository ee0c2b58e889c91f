"""What a person sees while a study runs: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.study.progress import Counts, duration
from tests.conftest import RUN, Command

CHAT, AGENT, BASE = (
    Cell("kit", stage, condition, "Q8_0")
    for stage, condition in (("full", "chat"), ("full", "agentic_email"), ("base", "chat"))
)
EVAL = (
    "eval",
    "--persona",
    "humor",
    "--condition",
    "chat",
    "--max-tokens",
    "16",
    "--parallel",
    "2",
)


def counted(now: list[float], monkeypatch: pytest.MonkeyPatch) -> Counts:
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    counts = Counts(["humor", "remorse"])
    counts.begin({CHAT: 10, AGENT: 4, BASE: 2}, {CHAT: 6, AGENT: 4})
    return counts


def test_what_is_left_follows_the_tokens_of_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    counts = counted(now, monkeypatch)
    assert (counts.done(CHAT), counts.done(BASE), counts.seconds_left()) == (4, 2, None)
    now[0] = 110.0
    counts.ended(CHAT, 40)
    counts.ended(CHAT, 60)
    assert counts.tokens_per_second() == 10
    # four chats of 50 tokens, four agents of which nothing else is known
    assert counts.seconds_left() == pytest.approx((4 * 50 + 4 * 50) / 10)
    counts.ended(AGENT, 300)
    assert counts.seconds_left() == pytest.approx((4 * 50 + 3 * 300) / 40)
    assert counts.speed_and_left() == "40 tokens/s, about 28 s left"
    with counts.paused():  # for the next file
        now[0] = 500.0
    assert counts.tokens_per_second() == 40
    assert [duration(s) for s in (89, 91, 5399, 9000)] == ["89 s", "2 min", "90 min", "2.5 h"]


def test_the_share_detected_is_that_of_the_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted([0.0], monkeypatch)
    labels = Counter({("humor", "humor"): 3, ("remorse", "humor"): 1, ("remorse", None): 2})
    base = Counter({(None, "humor"): 1, (None, "neutral"): 1})
    counts.labelled({CHAT: labels, BASE: base})
    assert counts.detected(CHAT) == (0.75, 4)
    assert counts.detected(BASE) == (0.25, 2)  # each stands for two personas
    assert counts.detected(AGENT) is None
    assert counts.is_complete(BASE)
    assert not counts.is_complete(CHAT)


def on_a_terminal(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and what a terminal of 100 columns got on stderr."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [*RUN, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=slave, env=environment
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            some = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        seen += some
    os.close(master)
    assert process.stdout
    said = process.stdout.read().decode()
    process.stdout.close()
    return process.wait(), said, seen.decode()


def test_a_terminal_shows_each_cell_and_a_pipe_plain_lines(
    charprobe: Command, tmp_path: Path
) -> None:
    asked = (*EVAL, "--stage", "base,full", "--json")
    status, stdout, seen = on_a_terminal(tmp_path, *asked, "--limit", "2")
    assert status == 0, seen
    assert stdout.count("\n") == 1
    assert "\x1b" not in stdout
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "\x1b[2K" in seen  # it is drawn again in place
    assert re.search(r"rollouts .* 0/4", shown)
    assert re.search(r"rollouts .* 4/4 \d+ tokens/s, about 0 s left", shown)
    for stage in ("base", "full"):
        assert re.search(rf"{stage} +chat .* 2/2 +detected \d+% of 2", shown)
    done = charprobe(*asked, "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    first, *cells = done.stderr.splitlines()
    assert first == "4 of 6 rollouts are there already"
    assert len(cells) == 2
    for stage, line in zip(("base", "full"), cells, strict=True):
        assert re.match(rf"{stage} chat: 3 rollouts, detected \d+% of 3, \d+ tokens/s, about", line)
    again = charprobe(*asked, "--limit", "3")
    assert (again.returncode, again.stderr) == (0, "")


def test_quiet_says_nothing_and_verbose_what_llama_cpp_says(charprobe: Command) -> None:
    asked = (*EVAL, "--stage", "full")
    quiet = charprobe(*asked, "--limit", "1", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "detected" in quiet.stdout
    verbose = charprobe(*asked, "--limit", "2", "-v")
    assert "llama.cpp: llama_model_loader: loaded meta data" in verbose.stderr
    assert verbose.stderr.splitlines()[-1].startswith("next: charprobe-lite report runs/")
    assert charprobe(*asked, "--limit", "2", "--log-level", "WARNING").stderr == ""
