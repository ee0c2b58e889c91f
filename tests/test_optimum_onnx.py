"""Classifiers exported by optimum-onnx, ours and its own; `make test-optimum` has that package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.convert import onnx_graph
from charprobe_lite.convert.onnx import export_classifier
from charprobe_lite.runtime.classifier import Classifier
from tests.classifiers import SHAPES, TEXTS, write_classifier, write_encoder_classifier

exporter = pytest.importorskip("optimum.exporters.onnx", exc_type=ImportError)
KINDS = ["modernbert", *sorted(SHAPES)]
MIXED = ["Yes.", *TEXTS[:6], "", " ".join(TEXTS[:3])]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    modernbert = {"modernbert": write_classifier(folder / "modernbert")}
    return modernbert | {kind: write_encoder_classifier(folder / kind, kind) for kind in SHAPES}


@pytest.mark.parametrize("kind", KINDS)
def test_both_exporters_write_graphs_that_compute_the_same(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    export_classifier(checkpoints[kind], tmp_path / "optimum", ["fp32"], texts=MIXED)
    monkeypatch.setattr(onnx_graph, "_by_optimum", lambda model, path, _: torch_graph(model, path))
    torch_graph = onnx_graph._by_torch
    export_classifier(checkpoints[kind], tmp_path / "torch", ["fp32"], texts=MIXED)
    first, second = (probabilities(Classifier(tmp_path / name)) for name in ("optimum", "torch"))
    assert np.abs(first - second).max() < 1e-5
    graphs = [(tmp_path / name / "model.onnx").read_bytes() for name in ("optimum", "torch")]
    assert graphs[0] != graphs[1]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_folder_of_optimum_is_read_as_optimum_reads_it(
    checkpoints: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    import onnx
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import PreTrainedTokenizerFast

    exporter.main_export(
        str(checkpoints[kind]), tmp_path, task="text-classification", do_validation=False
    )
    file = shutil.copy(checkpoints[kind] / "tokenizer.json", tmp_path)
    names = {value.name for value in onnx.load(tmp_path / "model.onnx").graph.input}
    assert ("token_type_ids" in names) == (kind == "bert")
    pad = "<pad>" if kind == "roberta" else "[PAD]"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token=pad)
    encoded = tokenizer(MIXED, truncation=True, max_length=64, padding=True, return_tensors="np")
    theirs = ORTModelForSequenceClassification.from_pretrained(tmp_path)
    logits = torch.as_tensor(theirs(**{name: encoded[name] for name in names}).logits)
    wanted = torch.softmax(logits.double(), dim=-1).numpy()
    assert probabilities(Classifier(tmp_path)) == pytest.approx(wanted, abs=1e-5)


def probabilities(classifier: Classifier) -> np.ndarray[Any, Any]:
    found = classifier.classify(MIXED)
    return np.array([list(prediction.probabilities.values()) for prediction in found])
