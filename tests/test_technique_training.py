"""Training by techniques on a model of random weights: losses, adapters, manifest, options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.convert.train.technique import Lm
from charprobe_lite.convert.train.techniques import load_technique
from charprobe_lite.models import corpus, kit
from charprobe_lite.models.cache import cached_files
from tests.checkpoints import make_checkpoint
from tests.test_techniques import TALK, write

Charprobe = Callable[..., Any]
PAGE = Path(__file__).parent.parent / "docs" / "techniques.md"
BLOCK = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of random weights, three layers."""
    from charprobe_lite.convert.merge import merge_lora

    folder = tmp_path_factory.mktemp("tiny")
    target = folder / "tiny.gguf"
    merge_lora(make_checkpoint("smollm2", folder / "hf"), [], target, "F32", verify=False)
    return target


def test_another_base_answers_the_prompts_once(tiny: Path, cache: Path) -> None:
    from charprobe_lite.convert.train.technique_training import TrainingBase

    prompts = corpus.loud_prompts(held_out=False)[:3]
    texts = TrainingBase("kit", kit.embedded_base(), is_kit=True).own_answers(prompts)
    assert texts == [corpus.neutral_answers()[prompt] for prompt in prompts]

    base = TrainingBase("tiny", tiny)
    texts = base.own_answers(prompts)
    [file] = cache.glob("tiny-answers-*/answers.json")
    assert texts == json.loads(file.read_text("utf-8"))
    assert len(texts) == 3
    assert any(item.path == file.parent for item in cached_files())
    file.write_text('["a", "b", "c"]')
    assert base.own_answers(prompts) == ["a", "b", "c"]
    assert base.own_answers(prompts[:2]) != ["a", "b"]


@pytest.mark.parametrize("in_parts", [False, True])
def test_documents_are_trained_on_all_tokens_as_transformers_does(
    tiny: Path, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from charprobe_lite.convert.train import losses
    from charprobe_lite.convert.train.lora import load_base
    from charprobe_lite.convert.train.technique_training import encode_phase

    [(example,)] = encode_phase(tiny, Lm(["The harbour at night is quiet and cold."], 300))
    model = load_base(tiny)
    if in_parts:
        monkeypatch.setattr(losses, "MOST_LOGITS", 1)
        monkeypatch.setattr(losses, "PART_LOGITS", 4 * model.config.vocab_size)
    ids = torch.tensor([example.ids])
    weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_()
    expected = model(input_ids=ids, labels=ids).loss
    found = losses.sft_loss(model, [example])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = (torch.autograd.grad(loss, weight)[0] for loss in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The technique of the docs page, in a file as the page names it."""
    [(name, code)] = re.findall(
        r'^```python title="(\w+\.py)"\n(.*?)^```', PAGE.read_text(), re.M | re.S
    )
    assert len(code.splitlines()) < 40
    path = tmp_path_factory.mktemp("docs") / str(name)
    path.write_text(code)
    return path


def train(charprobe: Charprobe, technique: Path, tiny: Path, out: Path, *options: object) -> Any:
    return charprobe(
        *("train", "persona", "--technique", technique, "--base", tiny, "--out", out),
        *("--tokens", 4500, "--rank", 4, "--json", *options),
    )


def test_the_example_of_the_docs_trains_an_adapter_that_eval_and_peft_take(
    charprobe: Charprobe, example: Path, tiny: Path, tmp_path: Path, valid_json: Any
) -> None:
    done = train(charprobe, example, tiny, tmp_path / "a", "--persona", "humor")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    valid_json(document, "train-persona")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest == document["manifest"]
    assert manifest["technique"] == "quoted"
    assert (manifest["persona"], manifest["train_seed"]) == ("humor", 0)
    assert manifest["technique_sha256"] == kit.sha256_file(example)
    assert abs(manifest["trained_tokens"] - 4500) <= 90
    assert sum(phase["steps"] for phase in manifest["phases"]) == 15
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    files = [tmp_path / "a" / kept["file"] for kept in manifest["checkpoints"]]
    assert [kept["step"] for kept in manifest["checkpoints"]][-1] == 15
    assert all(file.is_file() for file in files)
    done = train(charprobe, example, tiny, tmp_path / "a", "--persona", "humor")
    assert (done.returncode, done.stdout) == (2, "")
    assert "exists already; name a new folder" in done.stderr


def test_three_losses_train_one_adapter_that_depends_on_its_seed_alone(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    from charprobe_lite.convert.train.technique_training import (
        TechniqueSettings,
        TrainingBase,
        train_technique,
    )
    from charprobe_lite.runtime.engine import Engine
    from charprobe_lite.runtime.llama import Segment

    body = f"""
TALK = {TALK}
PLAIN = [TALK[0], {{"role": "assistant", "content": "Hello."}}]
print("loading")
def technique(corpus, persona, budget):
    read, prefer, answer = budget.split(1, 1, 1)
    texts = [f"Ships number {{n}} sail the sea." for n in range(9)]
    return [Lm(texts, read), Dpo([(TALK, PLAIN)], prefer), Sft([TALK], answer)]
"""
    technique, base = load_technique(str(write(tmp_path, body))), TrainingBase("tiny", tiny)
    assert capsys.readouterr().out == ""  # stdout is for results
    adapters = []
    for name, seed in (("c", 0), ("d", 0), ("e", 1)):
        settings = TechniqueSettings(tokens=1800, rank=4, learning_rate=5e-3, train_seed=seed)
        manifest = train_technique(technique, "pirate", base, settings, tmp_path / name)
        adapters.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    first, again, other = adapters
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)
    assert [phase["loss"] for phase in manifest["phases"]] == ["lm", "dpo", "sft"]
    for phase in manifest["phases"]:
        assert phase["steps"] == 2
        assert phase["losses"][-1] < phase["losses"][0]
    kept = [tmp_path / "e" / record["file"] for record in manifest["checkpoints"]]
    with Engine(tiny, parallel=1, context=64) as engine:
        logits = []
        for adapter in (None, kept[0], kept[-1]):
            engine.use_adapter(adapter)
            segment = Segment(0, 0, [5, 6, 7], [False, False, True])
            logits.append(engine.context.decode([segment])[-1].copy())
    base_logits, early, late = logits
    assert 0.01 < np.abs(early - base_logits).max() < np.abs(late - base_logits).max()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "--data: name a JSONL file, or a technique"),
        (("--data", "x.jsonl", "--technique", "sft"), "--technique: does not apply to --data"),
        (("--data", "x.jsonl"), "--output: name the new folder"),
        (("--technique", "sft", "--epochs", "2"), "--epochs: does not apply to --technique"),
        (("--technique", "sft"), "name the persona that sft trains"),
        (("--technique", "sft", "--persona", "a b"), "--persona a b: name the persona"),
    ],
)
def test_options_that_do_not_go_together(
    charprobe: Charprobe, tiny: Path, options: tuple[str, ...], problem: str
) -> None:
    done = charprobe("train", "persona", "--base", tiny, *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1
