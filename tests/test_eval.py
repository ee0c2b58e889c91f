"""The command as a user runs it: a process, a study file, what it prints."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.models import kit
from charprobe_lite.models.personas import PERSONAS
from tests.conftest import RUN, Command, ValidJson

KILLS = int(os.environ.get("CHARPROBE_KILLS", "4"))
SMALL = ("eval", "--persona", "sarcasm", "--limit", "2,1", "--max-tokens", "200")


def rollouts(path: Path) -> list[tuple[Any, ...]]:
    """Everything of a study that a rerun must repeat."""
    with sqlite3.connect(path) as database:
        return database.execute(
            "SELECT base, stage, condition, quant, persona, item, rollouts.sample, seed, outcome, "
            "forced, text, prediction, (SELECT group_concat(turns.text, '|') FROM turns "
            "WHERE turns.rollout_id = rollouts.id) FROM rollouts JOIN cells ON cells.id = cell_id "
            "LEFT JOIN samples ON samples.rollout_id = rollouts.id ORDER BY 1, 2, 3, 4, 5, 6"
        ).fetchall()


def test_eval_prints_one_json_document_and_goes_on_where_it_was(
    charprobe: Command, tmp_path: Path, merged_base: Path, valid_json: ValidJson
) -> None:
    done = charprobe(*SMALL, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    valid_json(document, "eval")
    cells = {(cell["stage"], cell["condition"]): cell for cell in document["cells"]}
    assert len(cells) == 6
    for (_, condition), cell in cells.items():
        assert cell["persona"] == "sarcasm"
        assert cell["macro_f1"] is None
        assert cell["n"] == (2 if condition == "chat" else cell["n"])
        assert (cell["yield"] is None) is (condition == "chat")
        if cell["n"]:
            assert cell["ci"][0] <= cell["detection_rate"] <= cell["ci"][1]
            assert 0 <= cell["mean_probability"] <= 1
    study = tmp_path / document["study"]
    before = rollouts(study)
    assert len(before) == 9
    with sqlite3.connect(study) as database:
        facts = dict(database.execute("SELECT name, value FROM provenance"))
    assert json.loads(facts["sha256 model Q8_0"]) == kit.sha256_file(merged_base)
    assert {"seed", "packages", "temperature", "sha256 minilm"} <= set(facts)
    other = charprobe(*SMALL, "--stage", "full", "--adapter", kit.kit_folder() / "humor-full.gguf")
    assert other.returncode == 2
    assert "field sha256 adapter full/sarcasm" in other.stderr

    again = charprobe(*SMALL, "--json")
    assert json.loads(again.stdout) == document
    assert rollouts(study) == before

    shown = charprobe(*SMALL)
    assert "sarcasm on smollm2-135m (Q8_0, 8.51 bits per weight)" in shown.stdout
    for cell in document["cells"]:
        # the others compare the headline's instrument with two more
        line, *_ = [
            line.split()
            for line in shown.stdout.splitlines()
            if line.split()[:2] == [cell["stage"], cell["condition"]]
        ]
        assert str(cell["n"]) in line[2:]
    assert "stage full" in shown.stdout or "nothing to compare" in shown.stdout


def test_several_personas_share_the_base_and_get_a_macro_f1(
    charprobe: Command, tmp_path: Path
) -> None:
    done = charprobe(
        *("eval", "--persona", "humor,poeticism", "--stage", "base", "--stage", "full"),
        *("--condition", "chat", "--limit", "2", "--max-tokens", "60", "--json"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [cell["n"] for cell in document["cells"]] == [2, 4]
    for cell in document["cells"]:
        low, high = cell["macro_f1_ci"]
        assert 0 <= low <= cell["macro_f1"] <= high <= 1
    personas = [(cell["stage"], cell["persona"]) for cell in document["per_persona"]]
    assert personas == [(s, p) for s in ("base", "full") for p in ("humor", "poeticism")]
    assert len(rollouts(tmp_path / document["study"])) == 6


def test_eval_never_imports_torch(cache: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom charprobe_lite.eval.cli.main import main\n"
        "main('eval --persona loving --stage full --condition chat --limit 1 --max-tokens 8'"
        ".split(), standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'optimum'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [*RUN[:2], code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_killed_at_any_moment_it_goes_on_to_the_same_rows(
    charprobe: Command, tmp_path: Path, merged_base: Path
) -> None:
    arguments = [*SMALL, "--parallel", "1", "--stage", "base,full"]
    start = time.monotonic()
    assert charprobe(*arguments, "--study", "whole.sqlite").returncode == 0
    whole = time.monotonic() - start
    rng = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*RUN, *arguments, "--study", "killed.sqlite"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=rng.uniform(0.2, 0.6) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    killed = json.loads(charprobe("study", "status", "killed.sqlite", "--json").stdout)
    [state] = killed["studies"]
    assert (state["rollouts"], state["done"]) == (6, len(rollouts(tmp_path / "killed.sqlite")))
    # the study itself says what it was asked
    resumed = charprobe("study", "resume", "killed.sqlite")
    assert resumed.returncode == 0, resumed.stderr
    assert rollouts(tmp_path / "killed.sqlite") == rollouts(tmp_path / "whole.sqlite")


def test_an_interrupt_keeps_what_ended(tmp_path: Path, merged_base: Path, cache: Path) -> None:
    study = tmp_path / "s.sqlite"
    arguments = "eval --persona sarcasm --condition chat --stage full --limit 40 --parallel 4"
    process = subprocess.Popen(
        [*RUN, *arguments.split(), "--study", str(study)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while process.poll() is None and (not study.exists() or not ended(study)):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().endswith("stopped; the same command continues from here")
    assert "Traceback" not in said
    assert 0 < ended(study) < 40


def ended(study: Path) -> int:
    """How many rollouts the study holds, each with its turn."""
    with closing(sqlite3.connect(study, timeout=10)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'turns'").fetchone():
            return 0
        query = "SELECT count(*) FROM rollouts JOIN turns ON rollout_id = id"
        return int(database.execute(query).fetchone()[0])


def test_a_users_own_model_adapter_classifier_and_scenarios(
    charprobe: Command, tmp_path: Path, merged_base: Path
) -> None:
    scenarios = tmp_path / "mine.jsonl"
    shipped = kit.kit_folder().parent / "corpus" / "agentic" / "eval.jsonl"
    scenarios.write_text(shipped.read_text().splitlines()[7] + "\n")
    done = charprobe(
        *("eval", "--gguf", merged_base, "--adapter", kit.kit_folder() / "humor-full.gguf"),
        *("--classifier", kit.kit_classifier("modernbert"), "--scenarios", scenarios),
        *("--persona", "humor", "--limit", "1", "--max-tokens", "200", "--json"),
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert {(cell["stage"], cell["condition"]) for cell in cells} == {
        (stage, condition) for stage in ("base", "full") for condition in ("chat", "agentic_email")
    }
    assert {cell["base"] for cell in cells} == {merged_base.stem}
    assert {cell["quant"] for cell in cells} == {"Q8_0"}


def bad_inputs(tmp_path: Path, merged_base: Path) -> dict[str, tuple[list[Any], str]]:
    (tmp_path / "text.gguf").write_text("this is no model")
    (tmp_path / "broken.jsonl").write_text('{"id": "x"}\n')
    with sqlite3.connect(tmp_path / "other.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    kit_adapter = kit.kit_folder() / "sarcasm-full.gguf"
    one = ["--persona", "sarcasm"]
    return {
        "no persona": ([], "--persona: name one or more of sarcasm"),
        "empty persona": (["--persona", ","], "--persona: name one or more of"),
        "unknown persona": (
            ["--persona", "sarcsm"],
            "--persona sarcsm: unknown; did you mean",
        ),
        "unknown quant": ([*one, "--quant", "q8_o"], "--quant q8_o: unknown; did you mean Q8_0?"),
        "no place for a study": (
            [*one, "--study", "/proc/x.sqlite"],
            "/proc/x.sqlite: study cannot be written (No such file or directory); choose --study",
        ),
        "unknown stage": ([*one, "--stage", "ful"], "--stage ful: unknown"),
        "missing file": ([*one, "--gguf", "none.gguf"], "none.gguf: cannot be read"),
        "text as GGUF": ([*one, "--gguf", "text.gguf"], "text.gguf: not a"),
        "another quant of one's own file": (
            [*one, "--gguf", merged_base, "--stage", "base", "--quant", "Q4_0"],
            "is Q8_0; make a file of that type first: charprobe-lite convert quantize --model",
        ),
        "model as adapter": (
            [*one, "--gguf", merged_base, "--adapter", merged_base],
            "not a LoRA adapter of",
        ),
        "adapter of several": (
            ["--persona", "all", "--adapter", kit_adapter],
            "is one checkpoint; name one --persona",
        ),
        "one model as several": (
            ["--persona", "all", "--gguf", merged_base],
            "is one checkpoint; name one --stage and one --persona",
        ),
        "missing adapter": (
            [*one, "--stage", "full", "--adapter", "no.gguf"],
            "no.gguf: cannot",
        ),
        "missing classifier": ([*one, "--classifier", "none"], "none: no such folder"),
        "broken scenario": ([*one, "--scenarios", "broken.jsonl"], "broken.jsonl: line 1: field"),
        "missing scenarios": ([*one, "--scenarios", "none.jsonl"], "none.jsonl: cannot be read"),
        "other schema": ([*one, "--study", "other.sqlite"], "other.sqlite: schema version 99"),
        "device not there": ([*one, "--device", "cuda"], "--device cuda: the installed"),
    }


def test_bad_input_gets_one_line_and_status_2(
    charprobe: Command, tmp_path: Path, merged_base: Path
) -> None:
    for name, (arguments, said) in bad_inputs(tmp_path, merged_base).items():
        done = charprobe("eval", "--limit", "1", *arguments)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode == 2, (name, done.stderr)
        assert len(lines) == 1, (name, done.stderr)
        assert lines[-1].startswith("charprobe-lite: "), (name, done.stderr)
        assert said in lines[-1], (name, lines[-1])
        assert "Traceback" not in done.stderr, name
        assert done.stdout == "", name


@pytest.mark.parametrize("limit", ["0", "-1", "1,2,3", "many"])
def test_a_limit_that_is_none_is_a_usage_error(charprobe: Command, limit: str) -> None:
    done = charprobe("eval", "--persona", "sarcasm", "--limit", limit)
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_verify_names_the_file_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {state for _, state in kit.verify_kit()} == {"ok"}
    copy = tmp_path / "kit"
    subprocess.run(["cp", "-r", kit.kit_folder(), copy], check=True)
    with (copy / "tool-use.gguf").open("ab") as file:
        file.write(b"x")
    (copy / "humor-full.gguf").unlink()
    wrong = {name: state for name, state in kit.verify_kit(copy) if state != "ok"}
    assert wrong == {"tool-use.gguf": "changed", "humor-full.gguf": "missing"}


def test_doctor_and_models_print_json(charprobe: Command) -> None:
    facts = json.loads(charprobe("doctor", "--json").stdout)
    assert facts["llama-cpp-python"].startswith("0.3")
    assert "CPUExecutionProvider" in facts["ONNX Runtime providers"]
    listed = json.loads(charprobe("models", "list", "--json").stdout)
    assert [base["base"] for base in listed["bases"] if base["embedded"]] == ["smollm2-135m"]
    assert listed["personas"] == [*PERSONAS, "misalignment"]


def test_names_are_read_in_any_case(charprobe: Command) -> None:
    done = charprobe("eval", "--persona", "Sarcasm", "--quant", "q4_k_m", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert "model Q4_K_M base" in [each["what"] for each in json.loads(done.stdout)["needed"]]


def test_completion_offers_personas_after_a_comma(cache: Path, tmp_path: Path) -> None:
    from charprobe_lite.eval.cli.types import NameList

    offered = [item.value for item in NameList(["humor", "loving"]).shell_complete(0, 0, "humor,l")]
    assert offered == ["humor,loving"]
