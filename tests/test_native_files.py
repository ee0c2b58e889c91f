"""Files that end llama.cpp or ONNX Runtime, or fill the memory, do not end this process."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime import native_trial
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Engine
from tests.classifiers import write_graph
from tests.conftest import Command

UINT32, INT32, FLOAT32 = 4, 5, 6  # gguf_type


def with_field(data: bytes, name: str, kind: int, value: bytes) -> bytes:
    """A GGUF file with another type and value of a number."""
    place = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    return data[:place] + struct.pack("<I", kind) + value + data[place + 4 + len(value) :]


@pytest.fixture
def no_layers(tmp_path: Path, base_gguf: Path) -> Path:
    """A model that claims to have no layers: an assertion of llama.cpp ends the process."""
    path = tmp_path / "no-layers.gguf"
    zero = struct.pack("<I", 0)
    path.write_bytes(with_field(base_gguf.read_bytes(), "llama.block_count", UINT32, zero))
    return path


def test_a_model_that_ends_llama_cpp_is_one_line(charprobe: Command, no_layers: Path) -> None:
    ended = charprobe("eval", "--gguf", no_layers, "--persona", "sarcasm", "--limit", "1")
    assert ended.returncode == 2
    assert "no-layers.gguf: ends the process in which llama.cpp loads it (SIGABRT" in ended.stderr
    assert "n_layer" in ended.stderr  # what llama.cpp said last
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) < 4


def test_a_model_that_ends_the_quantizer_is_one_line(charprobe: Command, no_layers: Path) -> None:
    arguments = ("--allow-requantize", "--quant", "Q4_K_M", "-o", "small.gguf")
    ended = charprobe("convert", "quantize", "--model", no_layers, *arguments)
    assert ended.returncode == 2
    assert "no-layers.gguf" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (INT32, struct.pack("<i", 16), "ends the process in which llama.cpp loads it"),
        (FLOAT32, struct.pack("<f", float("nan")), "logits are not numbers"),
    ],
)
def test_an_adapter_that_ends_llama_cpp_is_refused_and_the_engine_goes_on(
    tmp_path: Path, engine: Engine, kind: int, value: bytes, said: str
) -> None:
    good = kit.kit_folder() / "remorse-full.gguf"
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(with_field(good.read_bytes(), "adapter.lora.alpha", kind, value))
    with pytest.raises(BadInput, match=said) as refused:
        engine.use_adapter(bad)
    assert "bad.gguf" in str(refused.value)
    engine.use_adapter(good)


def divide_smallest(folder: Path) -> None:
    """A graph that divides the smallest integer by -1, which processors refuse."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(folder / "model.onnx")
    smallest = np.iinfo(np.int64).min
    for name, value in (("smallest", smallest), ("minus", -1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    # through the input, so that nothing is computed when the graph is loaded
    model.graph.node[0].input[0] = "divided"
    extra = [
        helper.make_node("Min", ["input_ids", "smallest"], ["low"]),
        helper.make_node("Div", ["low", "minus"], ["divided"]),
    ]
    for node in reversed(extra):
        model.graph.node.insert(0, node)
    onnx.save(model, folder / "model.onnx")


def fill_memory(folder: Path) -> None:
    """A graph of a few bytes that makes a tensor of 40 GB."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(folder / "model.onnx")
    model.graph.initializer.append(
        helper.make_tensor("shape", TensorProto.INT64, [2], [100_000, 50_000])
    )
    model.graph.node[0].input[0] = "low"
    nodes = [
        helper.make_node("ReduceMax", ["input_ids"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "shape"], ["large"]),
        helper.make_node("ReduceMin", ["large"], ["least"], keepdims=0),
        helper.make_node("Min", ["input_ids", "least"], ["low"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (divide_smallest, "ends the process in which ONNX Runtime loads it (SIGFPE)"),
        (fill_memory, "cannot classify"),
    ],
)
def test_a_graph_that_ends_onnx_runtime_is_one_line(
    charprobe: Command, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = write_graph(tmp_path / "ears", ["a", "b", "neutral"])
    damage(folder)
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "Hello.", "label": "a"}))
    ended = charprobe("score", texts, "--label", "label", "--classifier", folder)
    assert ended.returncode == 2, ended.stdout
    assert said in ended.stderr
    assert "model.onnx" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) < 4


def test_a_sound_file_is_tried_once_and_another_in_its_place_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = native_trial._try, []
    monkeypatch.setattr(native_trial, "_try", lambda *args: tried.append(args[1]) or real(*args))
    folder = write_graph(tmp_path / "ears", ["a", "b", "neutral"])
    for _ in range(2):
        Classifier(folder)
    folder = folder.rename(tmp_path / "moved")
    Classifier(folder)
    assert tried == [tmp_path / "ears" / "model.onnx"]
    divide_smallest(folder)
    with pytest.raises(BadInput, match="SIGFPE"):
        Classifier(folder)
