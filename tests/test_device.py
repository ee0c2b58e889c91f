"""What runs where: the devices that llama.cpp sees and the providers of ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.device import gpu_layers, is_int8, onnx_providers
from charprobe_lite.runtime.llama import devices
from tests.classifiers import write_graph
from tests.conftest import Command

CLASSIFIER = kit.kit_classifier("modernbert")
HAS_GPU = any(device.is_gpu for device in devices())


def test_the_cpu_is_seen_with_its_memory_and_never_gets_gpu_layers() -> None:
    [cpu] = [device for device in devices() if device.family == "CPU"]
    assert 0 < cpu.free <= cpu.total
    assert not cpu.is_gpu
    assert gpu_layers("cpu") == 0


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_auto_takes_the_cpu_and_asking_for_one_names_the_build() -> None:
    assert gpu_layers("auto") == 0
    for device in ("cuda", "metal"):
        with pytest.raises(BadInput, match=f"--device {device}: .*-DGGML_{device.upper()}=on"):
            gpu_layers(device)
    for device in ("auto", "cpu"):
        with pytest.raises(BadInput, match="--gpu-layers 4: no GPU is used"):
            gpu_layers(device, 4)


def test_an_int8_classifier_is_told_from_its_file_and_every_device_can_run_both(
    tmp_path: Path,
) -> None:
    full = write_graph(tmp_path / "full", ["humor", "neutral"])
    assert is_int8(CLASSIFIER / "model_int8.onnx")
    assert not is_int8(full / "model.onnx")
    for device in ("auto", "cpu", "metal", "cuda"):
        assert onnx_providers(device, CLASSIFIER / "model_int8.onnx") == ["CPUExecutionProvider"]
        assert onnx_providers(device, full / "model.onnx")[-1] == "CPUExecutionProvider"
        predictions = Classifier(full, device=device).classify(["Alas, my heart."])
        assert len(predictions) == 1


def test_a_missing_classifier_is_named_not_guessed_at(tmp_path: Path) -> None:
    assert not is_int8(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match=r"none\.onnx"):
        Classifier(CLASSIFIER, "none.onnx", device="auto")


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_doctor_says_what_is_used_and_how_to_get_a_gpu_build(charprobe: Command) -> None:
    facts = json.loads(charprobe("doctor", "--json").stdout)
    assert facts["device"] == "cpu"
    assert [name.split()[0] for name in facts["llama.cpp devices"]] == ["CPU"]
    assert "llama-cpp-python==" + facts["llama-cpp-python"] in facts["llama.cpp for a GPU"]


def test_a_llama_cpp_that_cannot_be_loaded_is_one_line_and_doctor_goes_on(
    charprobe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    done = charprobe("eval", "--persona", "sarcasm", "--limit", "1")
    assert done.returncode == 2
    assert f"fix or unset LLAMA_CPP_LIB_PATH ({tmp_path})" in done.stderr
    assert "Traceback" not in done.stderr
    facts = json.loads(charprobe("doctor", "--json").stdout)
    assert str(tmp_path) in facts["llama.cpp"]
    assert facts["kit"].startswith("recipe ")
    assert "CPUExecutionProvider" in facts["ONNX Runtime providers"]


def test_a_struct_that_another_release_changed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from charprobe_lite.runtime.llama import binding

    class Grown(ctypes.Structure):
        _fields_ = (*binding.Tensor._fields_, ("new", ctypes.c_int64))

    with monkeypatch.context() as patch:
        patch.setattr(binding, "Tensor", Grown)
        with pytest.raises(BadInput, match=r"struct ggml_tensor.*pip install 'llama-cpp-python=="):
            binding.check()

    def without_repacking() -> ctypes.Structure:
        fields = [field for field in known._fields_ if field[0] != "use_extra_bufts"]
        return type("llama_model_params", (ctypes.Structure,), {"_fields_": fields})(split_mode=1)

    known = type(binding.llama.llama_model_default_params())
    monkeypatch.setattr(binding.llama, "llama_model_default_params", without_repacking)
    with pytest.raises(BadInput, match="llama_model_params has no use_extra_bufts"):
        binding.check()
