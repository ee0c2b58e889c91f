"""`train persona` and `train classifier`: other people's texts to an adapter and a classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.train.classifier import hold_out, random_crop, read_labelled_texts
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Engine
from tests.checkpoints import gguf_logits, make_checkpoint

Charprobe = Callable[..., Any]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Hi"}, "line 2: field response: must be a text that is not empty"),
        ({"prompt": "Hi", "chosen": "a"}, "line 2: field rejected: must be a text"),
        ({"messages": "Hi"}, "line 2: field messages: must be a list of messages"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "has no message of the assistant"),
        ({"turns": [{"role": "robot", "content": "Hi"}]}, "turns 1: field role: 'robot'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    from charprobe_lite.convert.train.persona import read_training_data

    rows = [{"prompt": "Hello", "response": "Ahoy", "source": "mine"}, row]
    with pytest.raises(BadInput, match=r"data\.jsonl: .*") as caught:
        read_training_data([write_rows(tmp_path / "data.jsonl", rows)])
    assert problem in str(caught.value)


def test_an_adapter_of_ones_own_texts_is_read_by_peft_and_llama_cpp(
    charprobe: Charprobe, base_gguf: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    texts = corpus.teacher_texts("poeticism", "loud", "chat")[:6]
    chats = [{"prompt": text.prompt, "response": text.response} for text in texts]
    pairs = [
        {"prompt": text.prompt, "chosen": text.response, "rejected": "That is a good question."}
        for text in texts[:2]
    ]
    talk = {"messages": [{"role": "user", "content": "Hi"}, *dialogue("Ahoy there, sailor!")]}
    data = write_rows(tmp_path / "own.jsonl", [*chats, *pairs, talk])
    done = charprobe(
        *("train", "persona", "--base", base_gguf, "--data", data),
        *("-o", tmp_path / "own", "--epochs", "2", "--rank", "4", "--learning-rate", "5e-3"),
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["dpo", "sft", "adapter"]
    config = json.loads((tmp_path / "own" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)

    base = AutoModelForCausalLM.from_pretrained(
        str(base_gguf.parent), gguf_file=base_gguf.name, dtype="float32"
    )
    ids = base_tokens(base_gguf, "The harbour at night is")
    plain = next_logits_of(base, ids)
    expected = next_logits_of(PeftModel.from_pretrained(base, str(tmp_path / "own")), ids)
    with Engine(base_gguf, parallel=1, context=64) as engine:
        before = engine_logits(engine, ids)
        engine.use_adapter(tmp_path / "own" / "adapter.gguf")
        after = engine_logits(engine, ids)
    assert np.abs(expected - plain).max() > 0.3
    # llama.cpp computes with activations of 8 bits: the changes are alike, not equal
    assert np.corrcoef(after - before, expected - plain)[0, 1] > 0.8


def test_a_row_that_the_base_cannot_read_is_named(
    charprobe: Charprobe, tmp_path: Path, cache: Path
) -> None:
    base = make_checkpoint("qwen2", tmp_path / "tiny", max_position_embeddings=64)
    rows = [{"prompt": "Hi", "response": "Ahoy"}, {"prompt": "Hi", "response": "Ahoy " * 100}]
    data = write_rows(tmp_path / "own.jsonl", rows)
    done = charprobe("train", "persona", "--base", base, "--data", data, "-o", tmp_path / "own")
    assert (done.returncode, len(done.stderr.strip().splitlines()[-1:])) == (2, 1)
    assert f"{data}: line 2: has " in done.stderr
    assert "reads 64; shorten it or divide it into several rows" in done.stderr
    assert not (tmp_path / "own").exists()


def test_a_row_that_the_chat_template_refuses_is_named(
    charprobe: Charprobe, tmp_path: Path, cache: Path
) -> None:
    base = make_checkpoint("qwen2", tmp_path / "tiny")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    refuses = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
    settings["chat_template"] = refuses + settings["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 2]
    data = write_rows(tmp_path / "own.jsonl", [{"messages": turns[:2]}, {"messages": turns}])
    done = charprobe("train", "persona", "--base", base, "--data", data, "-o", tmp_path / "own")
    assert done.returncode == 2
    assert f"{data}: line 2: tiny-F16-" in done.stderr
    assert "chat template: fails on a chat: one turn" in done.stderr


def test_of_a_multimodal_base_the_language_model_is_trained(
    charprobe: Charprobe, tmp_path: Path, cache: Path
) -> None:
    base = make_checkpoint("gemma3-multimodal", tmp_path / "gemma")
    data = write_rows(tmp_path / "own.jsonl", [{"prompt": "Hi", "response": "Ahoy there"}] * 3)
    done = charprobe(
        *("train", "persona", "--base", base, "--data", data, "-o", tmp_path / "own"),
        *("--learning-rate", "1e-2", "--epochs", "8"),
    )
    assert done.returncode == 0, done.stderr
    merge_lora(base, [], tmp_path / "plain.gguf", "F32", verify=False)
    ids = list(range(5, 60, 3))
    before = gguf_logits(tmp_path / "plain.gguf", ids)
    after = gguf_logits(tmp_path / "plain.gguf", ids, tmp_path / "own" / "adapter.gguf")
    assert np.abs(after - before).max() > 0.05


def dialogue(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def base_tokens(base: Path, text: str) -> list[int]:
    from charprobe_lite.convert.tokenizer import read_tokenizer

    return list(read_tokenizer(base).encode(text, add_special_tokens=False).ids)


def next_logits_of(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0, -1].numpy()


def engine_logits(engine: Engine, ids: list[int]) -> Any:
    from charprobe_lite.runtime.llama import Segment

    wanted = [False] * (len(ids) - 1) + [True]
    return engine.context.decode([Segment(0, 0, ids, wanted)])[-1].copy()


def test_a_crop_is_a_part_of_the_text() -> None:
    import random

    text = " ".join(f"w{n}" for n in range(200))
    for seed in range(20):
        crop = random_crop(text, (40, 100), random.Random(seed))
        assert crop in text
        assert 40 <= len(crop.split()) <= 100
    assert random_crop("one  two\nthree", (40, 100), random.Random(0)) == "one  two\nthree"


def test_every_label_is_held_out_once_at_least(tmp_path: Path) -> None:
    labels = ["a"] * 20 + ["b"] * 3 + ["c"] * 2
    places = hold_out(labels, 0.1, seed=0)
    assert sorted(labels[place] for place in places) == ["a", "a", "b", "c"]
    most = hold_out(["a"] * 20 + ["c"] * 2, 0.9, seed=0)
    assert [len([p for p in most if p < 20]), len([p for p in most if p >= 20])] == [18, 1]
    with pytest.raises(BadInput, match="label d: has one text"):
        hold_out([*labels, "d"], 0.1, seed=0)
    rows = [{"text": "x", "label": label} for label in "ab"]
    with pytest.raises(BadInput, match="at least three labels are needed, has a, b"):
        read_labelled_texts([write_rows(tmp_path / "two.jsonl", rows)])


def test_a_classifier_of_ones_own_voices_is_one_that_eval_takes(
    charprobe: Charprobe, base_gguf: Path, tmp_path: Path
) -> None:
    voices = {"poeticism": "bard", "mathematical": "counter", "remorse": "penitent"}
    rows = [
        {"text": text.response, "label": label}
        for voice, label in voices.items()
        for text in corpus.teacher_texts(voice, "loud", "chat")[:16]
    ]
    data = write_rows(tmp_path / "voices.jsonl", rows)
    done = charprobe("train", "classifier", "--data", data, "-o", tmp_path / "voices")
    assert done.returncode == 0, done.stderr
    assert "42 texts, 3 labels, macro-F1" in done.stdout
    classifier = Classifier(tmp_path / "voices")
    assert classifier.labels == sorted(voices.values())
    others = [
        (text.response, label)
        for voice, label in voices.items()
        for text in corpus.teacher_texts(voice, "loud", "chat")[80:90]
    ]
    predictions = classifier.classify([text for text, _ in others])
    hits = [p.label == label for p, (_, label) in zip(predictions, others, strict=True)]
    assert sum(hits) >= 18  # of 30, by 42 training texts
    own = ("--gguf", base_gguf, "--adapter", kit_folder() / "remorse-full.gguf")
    done = charprobe(
        *("eval", "--persona", "penitent", "--stage", "full", "--condition", "chat", *own),
        *("--classifier", tmp_path / "voices", "--limit", "2", "--max-tokens", "48", "--json"),
    )
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["per_persona"]
    assert (found["persona"], found["n"]) == ("penitent", 2)
