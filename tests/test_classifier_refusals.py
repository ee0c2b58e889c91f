"""`convert classifier` on broken folders, with two processes, on a full disk."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from charprobe_lite.convert import onnx as export
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier
from tests.classifiers import (
    LABELS,
    TEXTS,
    convert,
    merged_weights,
    write_classifier,
    write_graph,
)


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the tests that damage it copy it."""
    folder = write_classifier(tmp_path_factory.mktemp("ears") / "hf")
    merged_weights(folder)
    return folder


Damage = Callable[[Path], object]


def config(**changed: Any) -> Damage:
    """Change fields of config.json; None removes one."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        fields = {**json.loads(path.read_text()), **changed}
        kept = {name: value for name, value in fields.items() if value is not None}
        path.write_text(json.dumps(kept))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without(tensor: str) -> Damage:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors[tensor]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def extra(tensor: str) -> Damage:
    def change(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        tensors = {**load_file(folder / "model.safetensors"), tensor: torch.ones(8)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"classifier.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FOUR = {str(number): label for number, label in enumerate(LABELS[:4])}


BAD: list[tuple[Damage, str]] = [
    (shutil.rmtree, r"hf.config.json: cannot be read \(No such file"),
    (pickled, r"pytorch_model.bin: pickled weights are never opened"),
    (truncated, r"model.safetensors: not a complete safetensors file"),
    (missing_shard, r"model-00001-of-00001.safetensors: shard is missing"),
    (without("classifier.weight"), r"hf: has no tensor classifier.weight"),
    (without("head.dense.weight"), r"hf: has no tensor head.dense.weight"),
    (extra("layers.0.attn.distance_embedding.weight"), r"tensor layers.0.attn.dist.*: no part of"),
    (config(problem_type="multi_label_classification"), r"field problem_type: multi_label_cla"),
    (config(problem_type="regression"), r"config.json: field problem_type: regression has no"),
    (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json: missing; save the tokenizer"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer.json: "),
    (lambda f: (f / "config.json").write_text("{"), r"config.json: not JSON"),
    (config(architectures=["BertForSequenceClassification"]), r"architectures: \['BertFor"),
    (config(architectures=["ModernBertForMaskedLM"]), r"of modernbert, ModernBertForSequenceCl"),
    (config(model_type="bert"), r"of bert, BertForSequenceClassification is converted"),
    (config(model_type="t5"), r"field model_type: t5; classifiers of modernbert, bert, .* are"),
    (config(model_type=None), r"config.json: field model_type: None; classifiers of"),
    (config(max_position_embeddings=0), r"config.json: field max_position_embeddings: Input"),
    (config(id2label=None), r"config.json: field id2label: must map 0, 1"),
    (config(id2label={**FOUR, "5": "neutral"}), r"config.json: field id2label: must map 0, 1"),
    (config(id2label=FOUR), r"field id2label: 4 labels, but .* classifier.weight has 5 rows"),
    (config(num_labels=7), r"field id2label: 5 labels, but num_labels is 7"),
    (config(id2label={**FOUR, "4": "humor"}), r"field id2label: a label appears twice"),
    (config(vocab_size=300), r"config.json: field vocab_size: 300, but tokenizer.json has token"),
    (config(hidden_size=128), r"hf: transformers cannot load it: "),
    (config(num_attention_heads="four"), r"hf: transformers cannot load it: "),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_what_cannot_be_converted_is_one_line(
    ears: Path, cache: Path, tmp_path: Path, damage: Damage, message: str
) -> None:
    source = tmp_path / "hf"
    shutil.copytree(ears, source)
    damage(source)
    refused(convert(source, tmp_path / "out"), message)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("tensor", ["model.embeddings.position_ids", "decoder.bias"])
def test_what_the_pretraining_left_in_a_checkpoint_is_passed_over(
    ears: Path, cache: Path, tmp_path: Path, tensor: str
) -> None:
    shutil.copytree(ears, tmp_path / "hf")
    extra(tensor)(tmp_path / "hf")
    done = convert(tmp_path / "hf", tmp_path / "out", "--type", "fp32")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("labels", "problem", "message"),
    [
        (["a", "b"], "multi_label_classification", r"field problem_type: multi_label_classific.*"),
        (["a", "b"], "regression", r"field problem_type: regression has no probabilities.*"),
        (["score"], None, r"field id2label: one label is a score; two are needed"),
    ],
)
def test_scores_that_a_softmax_would_turn_into_others_are_not_read(
    tmp_path: Path, labels: list[str], problem: str | None, message: str
) -> None:
    folder = write_graph(tmp_path / "onnx", labels)
    config(problem_type=problem)(folder)
    with pytest.raises(BadInput, match=rf"config.json: {message}"):
        Classifier(folder)


def refused(done: Result, message: str) -> None:
    """Status 2, nothing on stdout, one line that says this on stderr, no traceback."""
    assert done.exit_code == 2, done.exception
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize("module", ["onnx", "optimum.exporters.tasks", "transformers"])
def test_without_the_extra(
    ears: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = convert(ears, tmp_path / "out")
    refused(done, rf"{module} is not installed; pip install 'charprobe-lite\[convert\]'")


def test_a_folder_in_use_is_never_touched(ears: Path, cache: Path, tmp_path: Path) -> None:
    refused(convert(ears, ears), r"hf: exists already; name a new folder")
    refused(convert(ears, Path("/")), r"/: exists already")
    file = tmp_path / "file"
    file.write_text("mine")
    refused(convert(ears, file), r"file: exists already")
    assert file.read_text() == "mine"
    refused(convert(ears, file / "out"), r"out: cannot be written \(File exists\)")
    refused(
        convert(ears, tmp_path / "out", "--type", "int4"), "--type int4: unknown; did you mean int8"
    )


SLOW = """
import sys, time
from charprobe_lite.convert import onnx
from charprobe_lite.eval.cli.main import main
onnx.WRITERS["int8"] = lambda source, target: time.sleep(600)
main(["convert", "classifier", "--model", sys.argv[1], "-o", sys.argv[2]])
"""


@pytest.fixture
def stuck(ears: Path, cache: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A conversion to tmp_path/out that has written fp32 and never gets on."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(ears), str(tmp_path / "out")])
    try:
        while not (tmp_path / "out.part" / "model.onnx").exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_at_once_and_a_killed_one(
    ears: Path, tmp_path: Path, stuck: subprocess.Popen[bytes]
) -> None:
    target = tmp_path / "out"
    refused(convert(ears, target), r"out: another process is writing it; wait for that one")
    assert not target.exists()
    stuck.kill()
    assert stuck.wait() == -signal.SIGKILL
    assert not target.exists()
    assert convert(ears, target, "--no-verify", "--type", "fp32").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert len(Classifier(target).classify(TEXTS[:1])) == 1


@pytest.fixture(scope="module")
def fp32_bytes(ears: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    target = tmp_path_factory.mktemp("onnx") / "ears"
    return export.export_classifier(ears, target, ["fp32"], verify=False)[0].bytes


@pytest.mark.parametrize("share", [0.01, 0.98])
def test_a_full_disk(
    fp32_bytes: int, ears: Path, cache: Path, tmp_path: Path, share: float
) -> None:
    """Files stop at a share of what fp32 needs, as they do where the disk ends."""
    limit = int(share * fp32_bytes)
    code = "from charprobe_lite.eval.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "classifier", "--model", ears, "-o", "out"],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "out: cannot be written (File too large)" in line
    assert not list(tmp_path.iterdir())
