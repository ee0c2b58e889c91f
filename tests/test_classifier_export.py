"""`convert classifier` on a small ModernBERT with a real tokenizer, against transformers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.convert import onnx as export
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier
from tests.classifiers import LABELS, TEXTS, convert, merged_weights, write_classifier
from tests.conftest import ValidJson


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the tests that damage it copy it."""
    folder = write_classifier(tmp_path_factory.mktemp("ears") / "hf")
    merged_weights(folder)
    return folder


@pytest.fixture(scope="module")
def converted(
    ears: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, export.OnnxFile]]:
    """The folder with all three files, and what was said of each."""
    target = tmp_path_factory.mktemp("onnx") / "ears"
    files = export.export_classifier(ears, target, ("fp32", "int8", "fp16"))
    return target, {file.type: file for file in files}


def torch_logits(folder: Path, text: str) -> np.ndarray[Any, Any]:
    """transformers with its own tokenizer class, one text."""
    import torch
    from transformers import ModernBertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = ModernBertForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        return np.asarray(model.eval()(**encoded).logits[0].numpy())


def onnx_logits(path: Path, text: str) -> np.ndarray[Any, Any]:
    import onnxruntime
    from tokenizers import Tokenizer

    ids = np.array([Tokenizer.from_file(str(path.parent / "tokenizer.json")).encode(text).ids])
    session = onnxruntime.InferenceSession(path)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return np.asarray(session.run(["logits"], feed)[0][0])


def test_the_new_folder_holds_the_files_the_labels_and_the_tokenizer(
    ears: Path, converted: tuple[Path, dict[str, export.OnnxFile]]
) -> None:
    target, files = converted
    names = {"config.json", "tokenizer.json", "model.onnx", "model_int8.onnx", "model_fp16.onnx"}
    assert {path.name for path in target.iterdir()} == names
    assert (target / "tokenizer.json").read_bytes() == (ears / "tokenizer.json").read_bytes()
    kept = json.loads((target / "config.json").read_text())["id2label"]
    assert kept == {str(number): label for number, label in enumerate(LABELS)}
    for file in files.values():
        assert file.bytes == (target / file.file).stat().st_size
    assert files["int8"].bytes < 0.4 * files["fp32"].bytes
    assert files["fp16"].bytes < 0.7 * files["fp32"].bytes


def test_the_classifier_that_runs_it_says_what_torch_says(
    ears: Path, converted: tuple[Path, dict[str, export.OnnxFile]]
) -> None:
    target, files = converted
    found = Classifier(target).classify(TEXTS)
    for text, prediction in zip(TEXTS, found, strict=True):
        logits = torch_logits(ears, text)
        wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert list(prediction.probabilities) == list(LABELS)
        assert list(prediction.probabilities.values()) == pytest.approx(wanted, abs=1e-4)
    assert len({prediction.label for prediction in found}) > 1
    assert files["fp32"].agreement == 1
    for kind in ("int8", "fp16"):
        same = [
            mine.label == exact.label
            for mine, exact in zip(
                Classifier(target, files[kind].file).classify(TEXTS), found, strict=True
            )
        ]
        assert np.mean(same) >= 0.8


def test_int8_is_quantized_and_fp16_is_half(
    converted: tuple[Path, dict[str, export.OnnxFile]],
) -> None:
    _, files = converted
    fp32, int8, fp16 = (files[kind].difference for kind in ("fp32", "int8", "fp16"))
    assert fp32 is not None
    assert int8 is not None
    assert fp16 is not None
    assert fp32 < fp16 < int8


def test_fp16_computes_in_fp16_but_for_places_and_the_mean(
    ears: Path, converted: tuple[Path, dict[str, export.OnnxFile]]
) -> None:
    # ONNX Runtime on a CPU computes fp16 graphs in fp32; the reference evaluator rounds each step
    import onnx
    from onnx.reference import ReferenceEvaluator
    from tokenizers import Tokenizer

    target, _ = converted
    texts = [" ".join(TEXTS)[:1800], TEXTS[0]]
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0)
    rows = tokenizer.encode_batch(texts)
    feed = {
        "input_ids": np.array([row.ids for row in rows]),
        "attention_mask": np.array([row.attention_mask for row in rows]),
    }
    assert feed["input_ids"].shape[1] > 700
    nodes = onnx.load(target / "model.onnx").graph.node
    places = next(node.output[0] for node in nodes if node.op_type == "Cos")
    found, cosines = ReferenceEvaluator(str(target / "model_fp16.onnx")).run(
        ["logits", places], feed
    )
    exact_cosines = ReferenceEvaluator(str(target / "model.onnx")).run([places], feed)[0]
    assert np.abs(cosines - exact_cosines).max() < 1e-5
    assert np.ptp(exact_cosines) > 1.9
    exact = np.stack([torch_logits(ears, text) for text in texts])
    assert np.abs(found - exact).max() < 0.006


def test_a_sharded_bfloat16_checkpoint_with_cls_pooling(cache: Path, tmp_path: Path) -> None:
    source = write_classifier(tmp_path / "hf", "bfloat16", classifier_pooling="cls")
    assert len(list(source.glob("*.safetensors"))) > 1
    done = convert(source, tmp_path / "out", "--type", "fp32", "--json")
    assert (done.exit_code, done.stderr) == (0, "")  # no progress bar over the shards either
    [file] = json.loads(done.stdout)["files"]
    assert file["difference"] < 1e-4
    exact = torch_logits(source, TEXTS[0])
    found = onnx_logits(tmp_path / "out" / "model.onnx", TEXTS[0])
    assert found == pytest.approx(exact, abs=1e-4)


def test_labels_that_transformers_takes_for_granted_are_written(
    ears: Path, cache: Path, tmp_path: Path
) -> None:
    """Two labels, LABEL_0 and LABEL_1, are the default, which transformers does not save."""
    from safetensors.torch import load_file, save_file

    source, names = tmp_path / "hf", ["LABEL_0", "LABEL_1"]
    shutil.copytree(ears, source)
    tensors = load_file(source / "model.safetensors")
    for side in ("weight", "bias"):
        tensors[f"classifier.{side}"] = tensors[f"classifier.{side}"][:2].clone()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (source / "config.json").write_text(json.dumps(config))
    export.export_classifier(source, tmp_path / "out", ["fp32"], texts=TEXTS[:1])
    found = Classifier(tmp_path / "out").classify(TEXTS[:1])[0].probabilities
    logits = torch_logits(source, TEXTS[0])
    assert list(found) == names
    assert found["LABEL_1"] == pytest.approx(1 / (1 + np.exp(logits[0] - logits[1])), abs=1e-4)


def test_a_file_that_differs_from_torch_is_not_left(
    ears: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = export.write_graph

    def wrong(model: Any, path: Path) -> None:
        model.classifier.bias.data[0] += 0.01
        honest(model, path)

    monkeypatch.setattr(export, "write_graph", wrong)
    with pytest.raises(BadInput, match=r"model.onnx: logits differ from torch's by 0.01 "):
        export.export_classifier(ears, tmp_path / "out", ["int8"], texts=TEXTS[:2])
    assert not list(tmp_path.iterdir())


def test_the_command_prints_a_table_or_json(
    ears: Path, cache: Path, tmp_path: Path, valid_json: ValidJson
) -> None:
    done = convert(ears, tmp_path / "a", "--type", "int8", "--no-verify")
    assert (done.exit_code, done.stderr) == (0, "")
    size = (tmp_path / "a" / "model_int8.onnx").stat().st_size
    head, row = done.stdout.splitlines()
    assert re.split("  +", head.strip())[2:] == ["max logit difference", "same label as torch"]
    assert row.split() == ["model_int8.onnx", f"{size / 1e6:.1f}", "MB", "-", "-"]
    assert Classifier(tmp_path / "a").path.name == "model_int8.onnx"
    done = convert(ears, tmp_path / "b", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    valid_json(json.loads(done.stdout), "convert-classifier")
    files = json.loads(done.stdout)["files"]
    names = ["model.onnx", "model_int8.onnx"]
    assert [file["file"] for file in files] == [str(tmp_path / "b" / name) for name in names]
    assert files[0]["difference"] < 1e-4 < files[1]["difference"]
    assert files[0]["agreement"] == 1 >= files[1]["agreement"] > 0.8
