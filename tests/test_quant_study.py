"""`quant-study` on real files: what it measures, that it goes on, that its parts are joined."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.cli.quant_study import quant_study
from charprobe_lite.eval.cli.report import report
from charprobe_lite.eval.quant import run as quant_run
from charprobe_lite.eval.quant.records import read_recordings, score_recordings
from charprobe_lite.eval.quant.run import measure_fidelity
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import merge_studies
from charprobe_lite.eval.study.checkpoints import prepare_files
from charprobe_lite.eval.study.run import SILENT, run_rollouts
from charprobe_lite.eval.study.spec import parse_spec, resolve
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.corpus import loud_prompts, subtle_prompts, teacher_chats
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import kit_classifier
from charprobe_lite.runtime.stored_reference import StoredReference
from tests.checkpoints import make_adapter, make_checkpoint
from tests.classifiers import write_graph
from tests.conftest import ValidJson

SMALL = (
    *("--persona", "sarcasm", "--quant", "Q4_0", "--limit", "2,1", "--texts", "1"),
    *("--max-tokens", "24", "--parallel", "1", "--no-verify", "--json", "--study"),
)
KINDS = ["held_out", "character", "trajectory"]


def document(study: Path, *options: str) -> dict[str, Any]:
    """What the command prints; on stderr there is progress only."""
    done = CliRunner().invoke(
        main, ["quant-study", *SMALL, str(study), *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="module")
def study(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quant") / "small.sqlite"


@pytest.fixture(scope="module")
def results(study: Path) -> dict[str, Any]:
    """Read by a classifier that has a file of each precision; their labels are unrelated."""
    kits, ears = kit_classifier("modernbert"), study.parent / "ears"
    labels = json.loads((kits / "config.json").read_text())["id2label"].values()
    other = write_graph(study.parent / "other", list(labels))
    shutil.copytree(kits, ears)
    (ears / "model_int8.onnx").rename(ears / "model.onnx")
    shutil.copy(other / "model.onnx", ears / "model_int8.onnx")
    return document(study, "--classifier", str(ears))


def test_a_type_that_the_base_came_as_is_said_to_undo_part_of_a_merge(
    results: dict[str, Any], cache: Path
) -> None:
    notes: list[str] = []
    # the embedded base is a Q4_1 file
    values = {"persona": "sarcasm", "stage": "base", "quant": "Q4_0,Q4_1", "verify": False}
    spec = resolve(parse_spec(values))
    list(prepare_files(spec, load_catalogue(), notes.append, lambda _: nullcontext()))
    assert [line.partition(":")[0] for line in notes if "merged into them" in line] == ["Q4_1"]


def test_the_document_has_every_type_with_its_file_and_its_distance_from_f16(
    results: dict[str, Any], study: Path
) -> None:
    full, four = results["quants"]
    assert [(entry["quant"], entry["lora"]) for entry in (full, four)] == [
        ("F16", "runtime"),
        ("Q4_0", "runtime"),
    ]
    assert 16 <= full["bits_per_weight"] < 16.1
    assert 4.5 <= four["bits_per_weight"] < 6
    assert full["bytes"] > 2 * four["bytes"] > 2 * four["bits_per_weight"] / 8 * 130e6
    assert max(four["tensor_types"], key=four["tensor_types"].get) == "Q4_0"
    for entry in (full, four):
        assert entry["tokens_per_second"] > 0
        assert entry["peak_bytes"] > entry["bytes"]
        assert list(entry["fidelity"]) == KINDS
        chat, agent = entry["cells"]
        assert (chat["condition"], chat["n"], agent["condition"]) == ("chat", 2, "agentic_email")
        assert 0 <= agent["health"]["well_formed"]["estimate"] <= 1
        assert 1 <= agent["health"]["steps"]["estimate"] <= 8
    assert (full["kl_mean"], full["kl_p99"], full["top1"], full["difference"]) == (
        0,
        0,
        1,
        None,
    )
    assert 0 < four["kl_mean"] < four["kl_p99"]
    assert four["perplexity"] != full["perplexity"]
    assert four["fidelity"]["held_out"]["ratio"]["estimate"] == pytest.approx(
        four["perplexity"] / full["perplexity"]
    )
    assert 0 < four["top1"] < 1
    difference = four["cells"][0]["difference"]["detection_rate"]
    assert difference["ci"][0] < difference["ci"][1]
    assert difference["equivalent"] is None  # two prompts decide nothing
    assert full["cells"][0]["difference"] is None
    assert results["classifier"]["n"] >= 4
    assert results["instrument"] == "modernbert"
    assert results["recommendation"].startswith(("Take Q4_0", "Not decided", "Keep F16"))
    assert results["study"] == str(study)


def test_the_shared_base_reads_what_it_wrote_itself(cache: Path, tmp_path: Path) -> None:
    results = document(tmp_path / "base.sqlite", "--stage", "base")
    assert [list(entry["fidelity"]) for entry in results["quants"]] == [KINDS, KINDS]
    # the kit's instruments have one precision
    assert (results["instrument"], results["classifier"]) == ("ensemble", None)


def test_what_f16_wrote_itself_is_likelier_to_it_than_what_others_wrote(
    results: dict[str, Any], study: Path
) -> None:
    with Store(study, readonly=True) as store:
        texts = [entry for entry in store.texts() if entry.key.quant == "F16"]
        rows = {(row.cell.condition, row.item) for row in store.rows()}
    nll = {entry.key.kind: np.frombuffer(entry.nll, "<f4").mean() for entry in texts}
    assert nll["character"] < nll["held_out"]
    assert nll["trajectory"] < nll["held_out"]
    items = {entry.key.kind: entry.key.item for entry in texts}
    # named after the prompt or scenario, so that they are resampled with it
    assert ("chat", items["character"]) in rows
    assert ("agentic_email", items["trajectory"]) in rows
    assert items["held_out"] == "loud-01"
    trained = {entry.prompt for entry in teacher_chats("sarcasm", held_out=False)}
    assert not trained & {*loud_prompts(held_out=True), *subtle_prompts(held_out=True)}


def test_a_study_that_lost_what_was_not_through_is_resumed_to_the_same_document(
    results: dict[str, Any], study: Path, valid_json: ValidJson
) -> None:
    valid_json(results, "quant-study")
    with sqlite3.connect(study) as database:  # as if it had been killed there
        for table in ("labels", "samples", "turns"):
            database.execute(f"DELETE FROM {table} WHERE rollout_id = 2")
        database.execute("DELETE FROM rollouts WHERE id = 2")
        database.execute("DELETE FROM fidelity WHERE kind = 'character' AND quant = 'Q4_0'")
        database.execute("DELETE FROM labels WHERE rollout_id = 1")
    done = CliRunner().invoke(
        main, ["study", "resume", str(study), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    valid_json(json.loads(done.stdout), "study-run")
    [resumed] = json.loads(done.stdout)["studies"]
    of_command = ("schema", "report")
    assert resumed == {k: value for k, value in results.items() if k not in of_command}


def test_an_interrupt_keeps_the_texts_that_were_read(
    results: dict[str, Any], study: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped.sqlite"
    shutil.copy(study, stopped)
    values = {"persona": "sarcasm", "stage": "full", "quant": "F16,Q4_0", "verify": False}
    spec = resolve(parse_spec(values))
    variants = list(prepare_files(spec, load_catalogue(), lambda _: None, no_bar))
    with Store(stopped) as store, store.transaction():
        store.database.execute("DELETE FROM fidelity")

    @contextmanager
    def interrupted(_: str, total: int) -> Iterator[Callable[[], None]]:
        assert total == 6  # F16 reads them all first
        steps = iter([None] * 4)

        def advance() -> None:
            if next(steps, stopped):
                raise KeyboardInterrupt

        yield advance

    with Store(stopped) as store, pytest.raises(KeyboardInterrupt):
        measure_fidelity(store, variants, spec, 1, interrupted)
    with Store(stopped, readonly=True) as store, Store(study, readonly=True) as full:
        kept = store.texts()
        assert [entry.key.kind for entry in kept] == [
            "held_out",
            "held_out",
            "character",
            "character",
        ]
        assert {entry.key: entry for entry in full.texts()}.items() >= {
            entry.key: entry for entry in kept
        }.items()
        # types are compared on what all of them have read
        quants = score_recordings(read_recordings(store), ["sarcasm"], 0.03, 0)
    assert quants is not None
    assert {kind for entry in quants.quants for kind in entry.fidelity} == {"held_out", "character"}


def test_texts_that_do_not_fit_the_disk_together_are_read_to_the_same_records(
    results: dict[str, Any], study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quant_run, "StoredReference", partial(StoredReference, most_bytes=1))
    again = tmp_path / "again.sqlite"
    shutil.copy(study, again)
    values = {"persona": "sarcasm", "stage": "full", "quant": "F16,Q4_0", "verify": False}
    spec = resolve(parse_spec(values))
    variants = list(prepare_files(spec, load_catalogue(), lambda _: None, no_bar))
    with Store(again) as store, store.transaction():
        store.database.execute("DELETE FROM fidelity WHERE kind <> 'trajectory'")
    with Store(again) as store, Store(study, readonly=True) as full:
        measure_fidelity(store, variants, spec, 1, lambda *_: nullcontext(lambda: None))
        assert {entry.key: entry for entry in store.texts()} == {e.key: e for e in full.texts()}
    assert {path.name.removesuffix(".lock") for path in tmp_path.iterdir()} == {"again.sqlite"}


@contextmanager
def no_bar(_: str) -> Iterator[None]:
    yield None


def test_merged_parts_have_the_files_the_texts_and_the_labels_of_both(
    results: dict[str, Any], study: Path, tmp_path: Path
) -> None:
    parts = [tmp_path / "one.sqlite", tmp_path / "two.sqlite"]
    for path, kind in zip(parts, ("held_out", "trajectory"), strict=True):
        shutil.copy(study, path)
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM fidelity WHERE kind = ?", (kind,))
    with sqlite3.connect(parts[0]) as database:
        database.execute("UPDATE files SET tokens_per_second = NULL")
        database.execute("DELETE FROM labels")
    merge_studies(parts, tmp_path / "whole.sqlite")
    with Store(tmp_path / "whole.sqlite", readonly=True) as joined, Store(study) as full:
        assert joined.files() == full.files()
        assert {entry.key: entry for entry in joined.texts()} == {e.key: e for e in full.texts()}
        # probabilities differ in the last digits, as texts were read in other batches
        labels, expected = (
            {key: label for key, (label, _) in store.labels("int8").items()}
            for store in (joined, full)
        )
        assert labels == expected != {}
        assert joined.provenance()["margin"] == full.provenance()["margin"]
    for change, message in (
        ("UPDATE fidelity SET left_out = 9 WHERE kind = 'character'", "/character/id-"),
        ("UPDATE files SET bytes = 7 WHERE quant = 'Q4_0'", "file smollm2-135m Q4_0 runtime: has"),
    ):
        shutil.copy(study, tmp_path / "other.sqlite")
        with sqlite3.connect(tmp_path / "other.sqlite") as database:
            database.execute(change)
        with pytest.raises(BadInput, match=message):
            merge_studies([study, tmp_path / "other.sqlite"], tmp_path / "refused.sqlite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE fidelity SET kl = x'00'", "table fidelity, row 1: field kl: cannot be"),
        ("UPDATE files SET lora = 'x'", "file F16 x: field lora: cannot be 'x'"),
        ("UPDATE files SET tensor_types = '[]'", r"field tensor_types: cannot be '\[\]'"),
        ("UPDATE files SET tensor_types = '{'", r"field tensor_types: cannot be '\{'"),
    ],
)
def test_what_a_study_says_of_files_and_texts_is_not_trusted(
    results: dict[str, Any], study: Path, tmp_path: Path, change: str, message: str
) -> None:
    shutil.copy(study, tmp_path / "edited.sqlite")
    with sqlite3.connect(tmp_path / "edited.sqlite") as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(change)
    with (
        pytest.raises(BadInput, match=message),
        Store(tmp_path / "edited.sqlite", readonly=True) as store,
    ):
        score_recordings(read_recordings(store), ["sarcasm"], 0.03, 0)


def test_the_report_of_such_a_study_has_the_section(
    results: dict[str, Any], study: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(report, [str(study), "-o", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "report.html").read_text("utf-8")
    section = page[page.index('id="quantization"') : page.index('id="reading"')]
    assert results["recommendation"] in section.replace("&#39;", "'")
    assert "The classifier&#39;s own quantization" in section
    for name in ("quant-size.svg", "quant-difference.pdf", "quant-kl.csv", "quant-types.tex"):
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quant", "F16"], "--quant F16: add types to compare with it"),
        (
            ["--quant", "Q4_0", "--budget", "1.05GB"],
            "--quant: needs F16, which all others are compared with; name it, or a larger --budget",
        ),
        (["--quant", "Q4_O"], "--quant Q4_O: unknown; did you mean Q4_"),
    ],
)
def test_a_grid_without_anything_to_compare_is_one_line(options: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        CliRunner().invoke(quant_study, options, catch_exceptions=False)


def test_a_model_of_ones_own_is_made_in_every_type_and_compared(
    cache: Path, tmp_path: Path
) -> None:
    base = make_checkpoint("llama3", tmp_path / "base", max_position_embeddings=4096)
    merge_lora(base, [], tmp_path / "Tiny F16.gguf", "F16", verify=False)
    adapter = make_adapter(tmp_path / "adapter", base)
    own = ("--gguf", str(tmp_path / "Tiny F16.gguf"), "--condition", "chat")
    found = document(tmp_path / "own.sqlite", *own, "--adapter", str(adapter), "--lora", "both")
    files = {(file["quant"], file["lora"]): file for file in found["quants"]}
    assert files.keys() == {(q, lora) for q in ("F16", "Q4_0") for lora in ("runtime", "merged")}
    assert {cell["base"] for file in found["quants"] for cell in file["cells"]} == {"tiny-f16"}
    # the file itself is F16's base: only what it lacks was made
    made = sorted(path.name for path in cache.glob("tiny-f16*.gguf"))
    assert [name.rsplit("-", 1)[0] for name in made] == [
        *("tiny-f16-Q4_0", "tiny-f16-full-sarcasm-F16", "tiny-f16-full-sarcasm-Q4_0"),
        "tiny-f16-full-sarcasm-lora",
    ]


def test_a_types_file_is_made_when_the_types_before_it_have_run(
    cache: Path, tmp_path: Path
) -> None:
    base = make_checkpoint("smollm2", tmp_path / "base", max_position_embeddings=4096)
    merge_lora(base, [], tmp_path / "tiny.gguf", "F16", verify=False)
    study, counts = tmp_path / "s.sqlite", dict[str, int]()
    spec = parse_spec(
        {
            "persona": "sarcasm",
            "stage": "base",
            "condition": "chat",
            "limit": (2, 1),
            "gguf": tmp_path / "tiny.gguf",
            "quant": "F16,Q8_0,Q4_0",
            "texts": 1,
            "max_tokens": 8,
            "parallel": 1,
            "verify": False,
            "study": study,
        }
    )

    def note(text: str) -> None:
        if text.startswith("preparing"):
            quant = text.split()[3]
            with sqlite3.connect(study) as database:
                [counts[quant]] = database.execute("SELECT count(*) FROM rollouts").fetchone()
            if quant == "Q4_0" and len(counts) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rollouts(spec, replace(SILENT, note=note))
    assert counts == {"Q8_0": 2, "Q4_0": 4}
    counts.clear()
    assert [files.quant for files in run_rollouts(spec, replace(SILENT, note=note)).files] == [
        *("F16", "Q8_0", "Q4_0")
    ]
    assert counts == {"Q4_0": 4}
    with Store(study, readonly=True) as store:
        assert [file.quant for file in store.files()] == ["F16", "Q8_0", "Q4_0"]
        assert len(store.rows()) == 6
        pins = {name for name in store.provenance() if name.startswith("sha256 model")}
    assert pins == {"sha256 model F16", "sha256 model Q8_0", "sha256 model Q4_0"}


def test_a_model_of_ones_own_without_an_adapter_is_one_checkpoint(
    cache: Path, tmp_path: Path
) -> None:
    merge_lora(
        make_checkpoint("smollm2", tmp_path / "base", max_position_embeddings=4096),
        *([], tmp_path / "merged.gguf", "F16"),
        verify=False,
    )
    own = ("--gguf", str(tmp_path / "merged.gguf"), "--condition", "chat")
    found = document(tmp_path / "own.sqlite", *own)
    assert [(file["quant"], file["lora"]) for file in found["quants"]] == [
        ("F16", None),
        ("Q4_0", None),
    ]
    asked = ["quant-study", *SMALL, str(tmp_path / "b.sqlite"), *own, "--persona", "humor"]
    refused = CliRunner().invoke(main, asked)
    assert "is one checkpoint; name one --stage and one --persona" in refused.stderr
