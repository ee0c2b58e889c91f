"""`convert classifier` on BERT and its kin, and their ONNX files from other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.convert import onnx as export
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier, ClassifierConfig
from tests.classifiers import LABELS, SHAPES, TEXTS, convert, write_encoder_classifier

KINDS = sorted(SHAPES)
READS = 64  # tokens of a text, of every small model here
MIXED = ["Yes.", *TEXTS[:6], "", TEXTS[6][:80], " ".join(TEXTS[:3])]
"""From nothing to far more than a model reads."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_encoder_classifier(folder / kind, kind) for kind in KINDS}


def tokenizer_of(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    roberta = "roberta" in folder.name
    pad = {"pad_token": "<pad>" if roberta else "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **pad)


def softmaxed(logits: Any) -> Any:
    import torch

    return torch.softmax(torch.as_tensor(logits, dtype=torch.float64), dim=-1).numpy()


def torch_probabilities(folder: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """transformers on each text alone, cut where it reads no further, with eager attention."""
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = tokenizer_of(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows = []
    for text in texts:
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=READS,
            padding=False,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        with torch.no_grad():
            rows.append(softmaxed(model(**encoded).logits[0]))
    return np.array(rows)


def found_probabilities(classifier: Classifier, texts: list[str]) -> np.ndarray[Any, Any]:
    found = classifier.classify(texts)
    assert all(list(prediction.probabilities) == list(LABELS) for prediction in found)
    return np.array([list(prediction.probabilities.values()) for prediction in found])


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_classifier_says_what_torch_says(
    checkpoints: dict[str, Path], cache: Path, tmp_path: Path, kind: str
) -> None:
    done = convert(checkpoints[kind], tmp_path / "out", "--type", "fp32,int8,fp16", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    wanted = torch_probabilities(checkpoints[kind], MIXED)
    classifier = Classifier(tmp_path / "out")
    assert classifier.limit == READS
    together = found_probabilities(classifier, MIXED)
    alone = np.concatenate([found_probabilities(classifier, [text]) for text in MIXED])
    assert together == pytest.approx(wanted, abs=1e-4)
    assert alone == pytest.approx(wanted, abs=1e-4)
    assert len(set(wanted.argmax(axis=1))) > 1
    assert [prediction.cut for prediction in classifier.classify(MIXED)][-1]
    fp32, int8, fp16 = json.loads(done.stdout)["files"]
    assert fp32["difference"] < 1e-4 < fp16["difference"] < int8["difference"]
    assert min(int8["agreement"], fp16["agreement"]) > 0.8
    assert int8["bytes"] < 0.5 * fp32["bytes"]


def test_the_file_of_a_bert_takes_a_text_alone_and_no_token_types(
    checkpoints: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    import onnx

    export.export_classifier(checkpoints["bert"], tmp_path / "out", texts=MIXED)
    for name in ("model.onnx", "model_int8.onnx"):
        graph = onnx.load(tmp_path / "out" / name).graph
        assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    # int8 of a small vocabulary's model is mostly the table of embeddings
    tables = [each for each in graph.initializer if "word_embeddings" in each.name]
    sizes = {each.data_type for each in tables if len(each.dims) == 2}
    assert sizes == {onnx.TensorProto.UINT8}


def test_a_checkpoint_that_keeps_its_position_ids_is_converted(
    checkpoints: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    """transformers wrote them beside the weights until 2023, as 64-bit integers."""
    import torch
    from safetensors.torch import load_file, save_file

    source = tmp_path / "bert"
    shutil.copytree(checkpoints["bert"], source)
    tensors = load_file(source / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(READS)[None]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    export.export_classifier(source, tmp_path / "out", ["fp32"], texts=MIXED)
    wanted = torch_probabilities(checkpoints["bert"], MIXED)
    assert found_probabilities(Classifier(tmp_path / "out"), MIXED) == pytest.approx(
        wanted, abs=1e-4
    )


@pytest.mark.parametrize(
    ("fields", "limit", "padding"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512, 0),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512, 1),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512, 1),
        ({"model_type": "modernbert"}, 8192, 0),
    ],
)
def test_published_shapes_read_as_many_tokens_as_they_have_positions(
    fields: dict[str, Any], limit: int, padding: int
) -> None:
    config = ClassifierConfig(id2label={0: "a", 1: "b"}, **fields)
    assert (config.limit, config.padding) == (limit, padding)


def test_a_roberta_without_usable_positions_is_refused(
    checkpoints: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    source = tmp_path / "roberta"
    shutil.copytree(checkpoints["roberta"], source)
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 1}))
    with pytest.raises(BadInput, match=r"config.json: field max_position_embeddings: "):
        export.export_classifier(source, tmp_path / "out")
