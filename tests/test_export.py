"""`charprobe-lite export`: what other programs read is what the study holds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval import export
from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Inputs, RolloutSettings, input_hashes
from charprobe_lite.eval.conditions.transcript import Transcripts
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.reader import Study
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Message
from tests.conftest import RUN, Command, ValidJson

HUMOR, REMORSE = "humor", "remorse"
NASTY = '=HYPERLINK("https://evil.example","x"), he said\r\n\n@me "twice"\t\u2028 \U0001f642 end'
CALL = {name: form.write for name, form in CALL_FORMATS.items()}
EMAIL = {"to": ["tom@acme.example"], "subject": "Re", "body": NASTY}
Asked = tuple[Cell, str, str]


def ask(cell: Cell, persona: str) -> RolloutSettings:
    names = {"stage": cell.stage, "persona": persona, "format": cell.format}
    return RolloutSettings(384, tools=load_tools(), grammar=cell.grammar, **names)


def played(
    cell: Cell, persona: str, place: int, replies: Sequence[str]
) -> tuple[str, Result, list[Message]]:
    """The item that stands there, a real rollout on it that gets these replies, what was said."""
    inputs = Inputs(load_prompts(), load_scenarios(), prompt_limit=8)
    item = load_condition(cell.condition).items(inputs)[place]
    rollout = load_condition(cell.condition).rollout(item, ask(cell, persona))
    said: list[Message] = []
    try:
        request = next(rollout)
        for text in replies:
            said = [*request.messages, {"role": "assistant", "content": text}]
            request = rollout.send(Completion(text, "stop", 9, 9, 3, 0.5))
    except StopIteration as stop:
        return item.id, stop.value, said
    raise AssertionError("the rollout asks for more")


def rollouts() -> list[tuple[Cell, str, int, list[str]]]:
    chat, base = (Cell("kit", stage, "chat", "Q8_0") for stage in ("full", "base"))
    agent = Cell("kit", "full", "agentic_email", "Q8_0", "json", "on")
    free = Cell("kit", "full", "agentic_next", "Q8_0", "fenced", "off")
    lookup = CALL["json"]("contacts.lookup", {"query": "\ud800 nobody"})
    sent = {name: write("send_email", EMAIL) for name, write in CALL.items()}
    stray = CALL["fenced"]("contacts.lookup", {"query": "Tom"})
    return [
        *((chat, persona, n, [NASTY]) for persona in (HUMOR, REMORSE) for n in range(3)),
        *((base, None, n, ["plain"]) for n in range(3)),
        *((agent, HUMOR, n, [lookup, sent["json"]]) for n in range(2)),
        (agent, REMORSE, 0, ["I refuse"]),
        (agent, REMORSE, 1, [sent["json"]]),
        (free, HUMOR, 0, ["no call", stray, f"Sure!\n{sent['fenced']}"]),
        (Cell("kit", "full", "break_character", "Q8_0"), HUMOR, 1, ["never"]),
        (Cell("kit", "full", "chat_email_history", "Q8_0"), HUMOR, 0, ["wet", "soup", "Dear T"]),
        (Cell("kit", "base", "prompted_email", "Q8_0"), REMORSE, 0, ["Sorry, T"]),
        (Cell("kit", "teacher_loud", "author_ceiling", None), HUMOR, 0, []),
    ]


Said = dict[tuple[str, str, str, str], list[Message]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A study of real rollouts with made-up replies, and every conversation as it was."""
    path, said = tmp_path_factory.mktemp("export") / "small.sqlite", {}
    with Store(path) as store:
        asked = {f"sha256 {name}": digest for name, digest in input_hashes(None, None).items()}
        store.pin({"seed": 0, "temperature": 0.7, "max_tokens": 384, "max_steps": 8, **asked})
        for seed, (cell, persona, place, replies) in enumerate(rollouts()):
            item, result, messages = played(cell, persona, place, replies)
            store.add(cell, persona, item, 0, 2**62 + seed, result)
            said[cell.stage, cell.condition, persona, item] = messages
        for each in store.unclassified():
            label = REMORSE if "orry" in each.text or each.rollout % 4 == 0 else HUMOR
            told = {label: 0.7, **{n: 0.1 for n in (HUMOR, REMORSE, "neutral") if n != label}}
            store.classify([(each.rollout, label, {**told, "joy": 0.1})])
    return path, said


def document(charprobe: Command, *arguments: object) -> Any:
    done = charprobe(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_score_reads_an_export_as_it_reads_the_study(
    charprobe: Command,
    recorded: tuple[Path, Said],
    tmp_path: Path,
    kind: str,
    valid_json: ValidJson,
) -> None:
    study, _ = recorded
    file = tmp_path / f"out.{kind}"
    written = document(charprobe, "export", study, "--format", kind, "-o", file)
    valid_json(written, "export")
    assert written == {
        "schema": "charprobe-lite/export/1",
        "format": kind,
        "rollouts": len(rollouts()),
        "files": [str(file)],
    }
    if kind == "jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            pair = line["prediction"], line["persona"]
            assert line["recognised"] == (None if None in pair else pair[0] == pair[1])
        assert {line["recognised"] for line in lines} == {True, False, None}
    piped = tmp_path / f"piped.{kind}"
    with piped.open("wb") as stream:
        command = [*RUN, "export", str(study), "--format", kind, "-o", "-"]
        subprocess.run(command, stdout=stream, check=True)
    assert piped.read_bytes() == file.read_bytes()
    cells = document(charprobe, "score", file)["cells"]
    assert cells == document(charprobe, "score", study)["cells"]
    assert {cell["interval"] for cell in cells} == {"cluster", "envelope"}
    shared = next(c for c in cells if (c["stage"], c["condition"]) == ("base", "chat"))
    assert (shared["n"], shared["accuracy"], shared["interval"]) == (3, 0.5, "envelope")


def test_a_record_holds_the_whole_rollout(
    charprobe: Command, recorded: tuple[Path, Said], tmp_path: Path, valid_json: ValidJson
) -> None:
    study, _ = recorded
    document(charprobe, "export", study, "-o", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == len(rollouts())
    for row in rows:
        valid_json(row, "export-row")
    agents = [row for row in rows if row["condition"] == "agentic_email"]
    sent = next(row for row in agents if row["steps"] == 2)
    assert (sent["text"], sent["tokens"], sent["prompt_tokens"], sent["seconds"]) == (
        *(NASTY, 6, 18),
        1.0,
    )
    assert sent["seed"] >= 2**62
    assert (sent["format"], sent["grammar"], sent["outcome"]) == ("json", "on", "sent")
    first, last = sent["turns"]
    assert first["arguments"] == {"query": "? nobody"}
    assert first["output"].startswith("Error: no contact matches")
    assert (last["tool"], last["arguments"]) == ("send_email", EMAIL)
    lost = next(row for row in agents if row["outcome"] == "malformed")
    assert (lost["text"], lost["prediction"], lost["probs"]) == (None, None, None)
    assert lost["turns"][0]["text"] == "I refuse"
    assert {row["persona"] for row in rows if row["stage"] == "base"} == {None, REMORSE}


def test_a_conversation_is_rebuilt_word_for_word(recorded: tuple[Path, Said]) -> None:
    study, said = recorded
    with Store(study, readonly=True) as store:
        transcripts = Transcripts(store.provenance())
        turns = store.turns()
        for row in store.rows():
            key = (row.cell.stage, row.cell.condition, row.persona, row.item)
            own = turns.get((row.cell, row.persona, row.item, row.sample), [])
            assert said[key] or row.cell.condition == "author_ceiling"
            if said[key]:
                # SQLite holds no lone surrogates
                replies = [m["content"].encode("utf-8", "replace").decode() for m in said[key]]
                rebuilt = transcripts.messages(row, own)
                assert rebuilt is not None, key
                assert [m["content"] for m in rebuilt] == replies, key
                assert [m["role"] for m in rebuilt] == [m["role"] for m in said[key]], key


def test_inspect_reads_its_logs_with_messages_calls_and_scores(
    charprobe: Command, recorded: tuple[Path, Said], tmp_path: Path
) -> None:
    log_module = pytest.importorskip("inspect_ai.log")
    study, _ = recorded
    written = document(charprobe, "export", study, "--format", "inspect", "-o", tmp_path / "logs")
    assert len(written["files"]) == len({cell for cell, *_ in rollouts()})
    listed = log_module.list_eval_logs(str(tmp_path / "logs"))
    logs = {
        log.eval.task: log
        for log in map(log_module.read_eval_log, listed)
        if log.eval.metadata["stage"] != "base"
    }
    assert set(logs) == {
        *("chat", "agentic_email", "agentic_next, fenced, no grammar", "break_character"),
        *("chat_email_history", "author_ceiling"),
    }
    agents = logs["agentic_email"]
    assert (agents.status, agents.eval.model) == ("success", "kit/full/Q8_0")
    assert agents.eval.model_generate_config.temperature == 0.7
    assert "" < agents.stats.started_at <= agents.stats.completed_at
    [usage] = agents.stats.model_usage.values()
    spent = [use for sample in agents.samples for use in sample.model_usage.values()]
    assert usage.output_tokens == sum(use.output_tokens for use in spent) > 0
    [shown] = agents.results.scores
    assert shown.metrics["accuracy"].value == pytest.approx(shares(agents))
    assert (shown.scored_samples, shown.unscored_samples) == (3, 1)
    samples = {sample.id: sample for sample in agents.samples}
    lost = next(s for s in agents.samples if s.metadata["outcome"] == "malformed")
    assert lost.scores == {}
    sent = next(s for name, s in samples.items() if name.startswith(HUMOR))
    assert [m.role for m in sent.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [m.role for m in sent.input] == ["system", "user"]
    lookup, result, email = sent.messages[2:]
    assert lookup.tool_calls[0].function == result.function == "contacts.lookup"
    assert lookup.tool_calls[0].arguments == {"query": "? nobody"}
    assert result.tool_call_id == lookup.tool_calls[0].id
    assert result.text.startswith("Error: no contact matches")
    assert email.tool_calls[0].arguments == EMAIL
    assert sent.metadata["seed"] >= 2**62
    assert sent.target == HUMOR
    label, recognised = sent.scores["label"], sent.scores["recognised"]
    assert recognised.value == ("C" if label.value == HUMOR else "I")
    assert label.metadata["probabilities"][label.value] == 0.7

    [free] = logs["agentic_next, fenced, no grammar"].samples
    given = [m for m in free.input if m.role == "assistant"]
    assert given
    assert all(m.tool_calls for m in given)
    assert [m.role for m in free.messages[len(free.input) :]] == [
        *("assistant", "user", "assistant", "tool", "assistant"),
    ]
    [talk] = logs["chat_email_history"].samples
    assert [m.text for m in talk.messages if m.role == "assistant"] == ["wet", "soup", "Dear T"]
    [teacher] = logs["author_ceiling"].samples
    assert [m.role for m in teacher.messages] == ["user", "assistant"]


def shares(log: Any) -> float:
    scored = [s.scores["recognised"].value for s in log.samples if s.scores]
    return scored.count("C") / len(scored)


def test_what_a_study_asked_and_is_not_at_hand_is_left_out_and_said(
    charprobe: Command, recorded: tuple[Path, Said], tmp_path: Path
) -> None:
    pytest.importorskip("inspect_ai.log")
    from inspect_ai.log import read_eval_log

    study = tmp_path / "own.sqlite"
    mine = tmp_path / "mine.txt"
    mine.write_text("What is a lens?\n")
    cell = Cell("kit", "full", "chat", "Q8_0")
    with Store(study) as store, Store(recorded[0], readonly=True) as other:
        store.pin({**other.provenance(), "sha256 prompts": input_hashes(mine, None)["prompts"]})
        _, result, _ = played(cell, HUMOR, 0, ["Glass."])
        store.add(cell, HUMOR, load_prompts(mine)[0].id, 0, 1, result)
    done = charprobe("export", study, "--format", "inspect", "-o", "a")
    assert "prompts: differ from the study" in done.stderr
    [sample] = read_eval_log(str(next((tmp_path / "a").iterdir()))).samples or []
    assert [m.text for m in sample.messages] == ["Glass."]
    assert sample.metadata["rebuilt"] is False
    named = ("export", study, "--format", "inspect", "--prompts", mine)
    assert charprobe(*named, "-o", "b").stderr == ""
    [sample] = read_eval_log(str(next((tmp_path / "b").iterdir()))).samples or []
    assert [m.text for m in sample.messages] == ["What is a lens?", "Glass."]
    again = charprobe(*named, "-o", "b")
    assert again.returncode == 2
    assert "b: exists already" in again.stderr


def test_a_running_study_is_exported_as_it_stands_and_not_touched(
    charprobe: Command, recorded: tuple[Path, Said], tmp_path: Path
) -> None:
    study = tmp_path / "s.sqlite"
    item, result, _ = played(Cell("kit", "full", "chat", "Q8_0"), HUMOR, 0, ["Ha"])
    with Store(study) as store:
        for number in range(2):
            store.add(Cell("kit", "full", "chat", "Q8_0"), HUMOR, f"{number}", 0, 1, result)
        assert document(charprobe, "export", study)["files"] == [str(tmp_path / "s.jsonl")]
        store.add(Cell("kit", "full", "chat", "Q8_0"), HUMOR, item, 0, 1, result)
    before = study.read_bytes()
    assert document(charprobe, "export", study)["rollouts"] == 3
    assert study.read_bytes() == before
    assert {file.name for file in tmp_path.glob("s.sqlite*")} == {"s.sqlite", "s.sqlite.lock"}


def test_a_format_is_one_function(
    recorded: tuple[Path, Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(study: Study, target: Path, _: Transcripts | None) -> None:
        target.write_text("".join(f"{row.item}\n" for row in study.rows))

    monkeypatch.setattr(export, "FORMATS", dict(export.FORMATS))
    export.register("items", export.ExportFormat(write))
    [file] = export.export_study(recorded[0], "items", tmp_path / "items.txt")
    assert len(file.read_text().splitlines()) == len(rollouts())


def test_what_cannot_be_exported_gets_one_line(
    charprobe: Command, recorded: tuple[Path, Said], tmp_path: Path
) -> None:
    study = recorded[0]
    (tmp_path / "text.sqlite").write_text("no database, whatever its name says" * 99)
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "empty.sqlite"):
        pass
    with Store(tmp_path / "edited.sqlite") as store:
        _, result, _ = played(Cell("kit", "full", "chat", "Q8_0"), HUMOR, 0, ["Ha"])
        store.add(Cell("kit", "full", "chat", "Q8_0"), HUMOR, "x", 0, 1, result)
        store.classify([(1, HUMOR, {HUMOR: 7})])
    cases: list[tuple[list[object], str]] = [
        (["none.sqlite"], "none.sqlite: no such study"),
        (["text.sqlite"], "text.sqlite: study cannot be opened: file is not a database"),
        (["empty.sqlite"], "empty.sqlite: holds no rollout yet"),
        (["edited.sqlite"], "row 1: field probabilities: cannot be"),
        ([study, "--format", "xlsx"], "--format xlsx: unknown; choose from jsonl, parquet"),
        ([study, "-o", study], "is the study itself"),
        ([study, "-o", "file/below.jsonl"], "below.jsonl: cannot be written"),
        ([study, "-o", "."], ".: is a folder; name a file"),
        ([study, "--scenarios", "file"], "format jsonl has no messages"),
    ]
    for arguments, said in cases:
        done = charprobe("export", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done.stderr)
        [line] = done.stderr.splitlines()
        assert said in line, line
