"""`convert classifier` on a small ModernBERT with a real tokenizer, against transformers."""

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

import numpy as np
import pytest
from click.testing import CliRunner, Result

from charprobe_lite.convert import onnx as export
from charprobe_lite.eval.cli.main import main
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier
from tests.conftest import ValidJson

LABELS = ("sarcasm", "humor", "remorse", "loving", "neutral")
TEXTS = [text.response for text in corpus.teacher_texts("humor", "loud", "email")]
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
    "max_position_embeddings": 4096,
    "classifier_pooling": "mean",
}


def write_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE with ModernBERT's special tokens on the corpus; its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_classifier(folder: Path, dtype: str = "float32", **changed: Any) -> Path:
    """A ModernBERT with weights so large that logits differ from text to text."""
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    folder.mkdir(parents=True)
    special = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(
        vocab_size=write_tokenizer(folder),
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        sep_token_id=3,
        **{**TINY, **special, **changed},
    )
    torch.manual_seed(0)
    model = ModernBertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="150KB")
    return folder


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the tests that damage it copy it."""
    folder = write_classifier(tmp_path_factory.mktemp("ears") / "hf")
    merged_weights(folder)
    return folder


def merged_weights(folder: Path) -> None:
    """Shards as one model.safetensors."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


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
    places = "/model/layers.0/attn/rotary_emb/Cos_output_0"
    found, cosines = ReferenceEvaluator(str(target / "model_fp16.onnx")).run(
        ["logits", places], feed
    )
    exact_cosines = ReferenceEvaluator(str(target / "model.onnx")).run([places], feed)[0]
    assert np.abs(cosines - exact_cosines).max() < 1e-5
    assert np.ptp(exact_cosines) > 1.9
    exact = np.stack([torch_logits(ears, text) for text in texts])
    assert np.abs(found - exact).max() < 0.006


def test_fp16_masks_add_up_without_overflow(
    converted: tuple[Path, dict[str, export.OnnxFile]],
) -> None:
    import onnx

    graph = onnx.load(converted[0] / "model_fp16.onnx").graph
    tensors = [*graph.initializer]
    tensors += [a.t for node in graph.node for a in node.attribute if node.op_type == "Constant"]
    halves = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in tensors
        if tensor.data_type == onnx.TensorProto.FLOAT16
    ]
    lowest = min(values.min() for values in halves if values.size)
    assert -12_000 < lowest < -1000


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


def test_a_file_that_differs_from_torch_is_not_left(
    ears: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = export._export

    def wrong(model: Any, folder: Path) -> None:
        model.classifier.bias.data[0] += 0.01
        honest(model, folder)

    monkeypatch.setattr(export, "_export", wrong)
    with pytest.raises(BadInput, match=r"model.onnx: logits differ from torch's by 0.01 "):
        export.export_classifier(ears, tmp_path / "out", ["int8"], texts=TEXTS[:2])
    assert not list(tmp_path.iterdir())


def convert(source: Path, target: Path, *more: str) -> Result:
    arguments = ["convert", "classifier", "--model", str(source), "-o", str(target), *more]
    return CliRunner().invoke(main, arguments)


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


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"classifier.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FOUR = {str(number): label for number, label in enumerate(LABELS[:4])}
BAD: list[tuple[Damage, str]] = [
    (shutil.rmtree, r"hf.config.json: cannot be read \(No such file"),
    (pickled, r"pytorch_model.bin: pickled weights are never opened"),
    (truncated, r"model.safetensors: not a whole safetensors file"),
    (missing_shard, r"model-00001-of-00001.safetensors: shard is missing"),
    (without("classifier.weight"), r"hf: has no tensor classifier.weight"),
    (without("head.dense.weight"), r"hf: has no tensor head.dense.weight"),
    (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json: missing; save the tokenizer"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer.json: "),
    (lambda f: (f / "config.json").write_text("{"), r"config.json: not JSON"),
    (config(architectures=["BertForSequenceClassification"]), r"architectures: \['BertFor"),
    (config(architectures=["ModernBertForMaskedLM"]), r"only ModernBertForSequenceClassification"),
    (config(model_type="bert"), r"field model_type: bert; only ModernBert"),
    (config(id2label=None), r"config.json: field id2label: must map 0, 1"),
    (config(id2label={**FOUR, "5": "neutral"}), r"config.json: field id2label: must map 0, 1"),
    (config(id2label=FOUR), r"field id2label: 4 labels, but .* classifier.weight has 5 rows"),
    (config(num_labels=7), r"field id2label: 5 labels, but num_labels is 7"),
    (config(id2label={**FOUR, "4": "humor"}), r"field id2label: a label stands there twice"),
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


def refused(done: Result, message: str) -> None:
    """Status 2, nothing on stdout, one line that says this on stderr, no traceback."""
    assert done.exit_code == 2, done.exception
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize("module", ["onnx", "optimum.exporters.onnx", "transformers"])
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
    refused(convert(ears, tmp_path / "out", "--type", "int4"), r"--type int4: unknown; choose from")


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


@pytest.mark.parametrize("share", [0.01, 0.98])
def test_a_full_disk(
    converted: tuple[Path, dict[str, export.OnnxFile]],
    ears: Path,
    cache: Path,
    tmp_path: Path,
    share: float,
) -> None:
    """Files stop at a share of what fp32 needs, as they do where the disk ends."""
    limit = int(share * converted[1]["fp32"].bytes)
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
