"""What quantization does to a model's distributions, against transformers on the same tokens."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import entropy

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.quantize import quantize_file
from charprobe_lite.eval.quant.fidelity_texts import held_out
from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import BackendOptions
from charprobe_lite.runtime.fidelity import (
    CHUNK,
    Fidelity,
    ModelComparison,
    TextReader,
    TokenizedText,
    concatenate,
    kl_divergence,
    log_softmax,
    reply_texts,
)
from charprobe_lite.runtime.llama import Context, Model, Segment
from charprobe_lite.runtime.speed import measure_speed
from charprobe_lite.runtime.stored_reference import (
    STEPS,
    TOP,
    StoredReference,
    decode,
    encode,
)
from tests.checkpoints import load, make_adapter, make_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
HUMOR = kit.kit_folder() / "humor-full.gguf"
TALK = [
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Oder.\n\nIt is long."},
    {"role": "user", "content": "Write to Ana."},
    {
        "role": "assistant",
        "content": '{"name": "send_email", "arguments": {"to": "ana@b.c"}}',
    },
]


@pytest.fixture(scope="module")
def f16(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real base as F16."""
    path = tmp_path_factory.mktemp("f16") / "f16.gguf"
    merge_lora(base_gguf, [], path, "F16", verify=False)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of random weights, and tiny.gguf beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    merge_lora(
        make_checkpoint("smollm2", folder / "base"), [], folder / "tiny.gguf", "F16", verify=False
    )
    return folder


def by_torch(reference: Any, model: Any, text: TokenizedText) -> Fidelity:
    """The same figures by torch's own functions."""
    with torch.no_grad():
        ids = torch.tensor([text.tokens])
        log_p, log_q = (
            torch.log_softmax(model(ids).logits[0].double(), -1) for model in (reference, model)
        )
    rows = torch.tensor([i - 1 for i, counts in enumerate(text.scored) if counts and i])
    log_p, log_q, targets = log_p[rows], log_q[rows], ids[0][rows + 1]
    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return Fidelity(
        nll=torch.nn.functional.nll_loss(log_q, targets, reduction="none").float().numpy(),
        reference_nll=torch.nn.functional.nll_loss(log_p, targets, reduction="none")
        .float()
        .numpy(),
        kl=kl.float().numpy(),
        same_top=(log_p.argmax(-1) == log_q.argmax(-1)).numpy(),
    )


def perplexity(nll: Any) -> float:
    return float(np.exp(nll.mean(dtype=np.float64)))


def test_perplexity_and_kl_are_those_of_transformers_and_peft(tiny: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", tiny / "base")
    merge_lora(tiny / "base", [adapter], tmp_path / "merged.gguf", "F16", verify=False)
    tokens = np.random.default_rng(0).integers(10, 600, 2 * CHUNK - 50).tolist()
    text = TokenizedText(tokens, [bool(i % 3) for i in range(len(tokens))])
    with ModelComparison(tiny / "tiny.gguf", tmp_path / "merged.gguf") as comparison:
        fidelity = comparison.compare(text)  # in two pieces
    base = load(tiny / "base")
    expected = by_torch(load(tiny / "base"), PeftModel.from_pretrained(base, adapter).eval(), text)
    assert np.allclose(fidelity.nll, expected.nll, atol=0.02)
    assert np.allclose(fidelity.reference_nll, expected.reference_nll, atol=0.02)
    assert np.allclose(fidelity.kl, expected.kl, atol=0.01, rtol=0.05)
    assert fidelity.kl.size == expected.kl.size == 308
    figures = [np.mean, np.median, lambda kl: np.percentile(kl, 99)]
    for figure in figures:
        assert figure(fidelity.kl) == pytest.approx(figure(expected.kl), rel=0.01)
    for name in ("nll", "reference_nll"):
        ours, theirs = getattr(fidelity, name), getattr(expected, name)
        assert perplexity(ours) == pytest.approx(perplexity(theirs), rel=0.01), name
    assert fidelity.same_top.mean() == pytest.approx(expected.same_top.mean(), abs=0.01)


def test_the_same_weights_are_no_distance_apart(tiny: Path, tmp_path: Path) -> None:
    os.link(tiny / "tiny.gguf", tmp_path / "copy.gguf")
    text = TokenizedText(list(range(20, 90)), [True] * 70)
    for other in (tiny / "tiny.gguf", tmp_path / "copy.gguf"):
        with ModelComparison(tiny / "tiny.gguf", other) as comparison:
            fidelity = comparison.compare(text)
        assert fidelity.kl.size == 69
        assert not fidelity.kl.any()
        assert fidelity.same_top.all()
        assert np.array_equal(fidelity.nll, fidelity.reference_nll)


def first_held_out(model: Model, persona: str) -> TokenizedText:
    """A loud teacher's answer to a prompt that trained nothing."""
    messages = next(c.messages for c in held_out([persona], 40) if c.item.startswith("loud"))
    [text] = reply_texts(model, messages)
    return text


def test_four_bits_move_a_model_further_than_eight(f16: Path, tmp_path: Path) -> None:
    fidelities = []
    for quant in ("Q8_0", "Q4_0"):
        quantize_file(f16, tmp_path / quant, quant)
        with ModelComparison(f16, tmp_path / quant) as comparison:
            text = first_held_out(comparison.reference, "loving")
            fidelities.append(comparison.compare(text))
    assert 0 < fidelities[0].kl.mean() < fidelities[1].kl.mean() / 10
    assert 1 > fidelities[0].same_top.mean() > fidelities[1].same_top.mean()


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
def test_a_stored_reference_says_what_both_models_beside_each_other_say(
    f16: Path, tmp_path: Path, quant: str
) -> None:
    quantize_file(f16, tmp_path / "model.gguf", quant)
    with ModelComparison(f16, tmp_path / "model.gguf") as comparison:
        text = first_held_out(comparison.reference, "loving")
        exact = comparison.compare(text)
    with StoredReference(tmp_path) as stored:
        with TextReader(f16) as reader:
            place = stored.add(text, reader)
            again = stored.add(text, reader)
        with TextReader(tmp_path / "model.gguf") as reader:
            fidelity = stored.compare(place, reader)
            assert np.array_equal(stored.compare(again, reader).kl, fidelity.kl)
    assert np.array_equal(fidelity.nll, exact.nll)
    assert np.array_equal(fidelity.reference_nll, exact.reference_nll)
    assert np.array_equal(fidelity.same_top, exact.same_top)
    for figure in (np.mean, np.median, lambda kl: np.percentile(kl, 99)):
        assert figure(fidelity.kl) == pytest.approx(figure(exact.kl), rel=1e-4)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("vocabulary", [100, 20_000])
def test_stored_log_probabilities_are_off_by_half_a_step_and_kl_by_far_less(
    vocabulary: int, noise: float
) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40, vocabulary)).astype(np.float32)
    logits[0] = 1.0  # all alike
    log_p, log_q = log_softmax(logits), log_softmax(logits + rng.normal(0, noise, logits.shape))
    rows = encode(log_p, logits.argmax(axis=1), np.zeros(40, np.float32))
    log_stored = decode(rows)
    assert np.abs(log_stored - log_p).max() < 0.51 * (log_p.max() - log_p.min()) / STEPS + 1e-6
    best = np.sort(log_p, axis=1)[:, -min(TOP, vocabulary) :]
    assert np.array_equal(np.sort(log_stored, axis=1)[1:, -best.shape[1] :], best[1:])
    kl = entropy(np.exp(log_p), np.exp(log_q), axis=1)
    assert kl_divergence(log_stored, log_q).mean() == pytest.approx(kl.mean(), rel=1e-3)


def test_a_stored_reference_of_another_vocabulary_is_refused(
    tiny: Path, base_gguf: Path, tmp_path: Path
) -> None:
    with StoredReference(tmp_path) as stored:
        with TextReader(tiny / "tiny.gguf") as reader:
            place = stored.add(TokenizedText([20, 21, 22], [True] * 3), reader)
        with (
            TextReader(base_gguf) as reader,
            pytest.raises(BadInput, match=r"has 49152 tokens, .*tiny\.gguf has 640; compare"),
        ):
            stored.compare(place, reader)


def test_a_quantization_that_fails_quotes_llama_cpps_reason(tiny: Path, tmp_path: Path) -> None:
    reason = "llama.cpp cannot quantize it into .*: llama_model_quantize: failed to quantize: "
    with pytest.raises(BadInput, match=f"tiny.gguf: {reason}"):
        quantize_file(tiny / "tiny.gguf", tmp_path / "none" / "out.gguf", "Q4_0")


def test_more_tokens_than_a_batch_holds_are_refused(tiny: Path) -> None:
    model = Model(tiny / "tiny.gguf")
    context = Context(model, length=2000)
    tokens = [20] * (context.batch_size + 1)
    with pytest.raises(ValueError, match="more than 1024 tokens in one decode"):
        context.decode([Segment(0, 0, tokens, [False] * len(tokens))])
    context.close()
    model.close()


def test_an_adapter_of_a_side_is_in_its_figures_alone(f16: Path, tmp_path: Path) -> None:
    with ModelComparison(f16, f16) as comparison:
        text = first_held_out(comparison.reference, "humor")

        def compare(reference: Path | None, model: Path | None) -> Fidelity:
            comparison.use_adapters(reference, model)
            return comparison.compare(text)

        one, both, neither = compare(None, HUMOR), compare(HUMOR, HUMOR), compare(None, None)
        with pytest.raises(BadInput, match=r"none\.gguf: no such adapter file"):
            comparison.use_adapters(None, tmp_path / "none.gguf")
    # it was trained on this voice
    assert perplexity(one.nll) < 0.7 * perplexity(one.reference_nll)
    assert np.array_equal(one.reference_nll, neither.nll)
    assert one.kl.mean() > 0.1
    assert not both.kl.any()
    assert not neither.kl.any()
    assert np.array_equal(both.nll, one.nll)


def spelled(model: Model, text: TokenizedText, scored: bool) -> str:
    pairs = zip(text.tokens, text.scored, strict=True)
    return b"".join(model.piece(token) for token, counts in pairs if counts == scored).decode()


def test_only_the_replies_are_scored_in_the_tokens_that_the_engine_reads(base_gguf: Path) -> None:
    model = Model(base_gguf)
    [text] = reply_texts(model, TALK)
    assert spelled(model, text, True) == TALK[1]["content"] + TALK[3]["content"]
    # the tokens that the engine reads before the last turn
    prompt = model.tokenize(model.render(TALK[:3]))
    assert text.tokens[: len(prompt)] == prompt
    assert all(text.scored[len(prompt) :])
    # spaces at a reply's beginning join the newline before them once the reply is past
    spaced = [TALK[0], {"role": "assistant", "content": "  The Oder."}, *TALK[2:]]
    first, second = reply_texts(model, spaced)
    assert spelled(model, first, True) == "  The Oder."
    assert spelled(model, second, True) == TALK[3]["content"]
    prompt = model.tokenize(model.render(spaced[:3]))
    assert second.tokens[: len(prompt)] == prompt
    for prompt, answer in (conversation.messages for conversation in held_out(["sarcasm"], 40)):
        [text] = reply_texts(model, [prompt, answer])
        assert spelled(model, text, True) == answer["content"]
        assert prompt["content"] in spelled(model, text, False)
    model.close()


def test_a_template_that_forgets_what_was_said_gives_a_text_per_turn(tmp_path: Path) -> None:
    base = make_checkpoint("smollm2", tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] if m['role'] == 'user' else '...' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    merge_lora(base, [], tmp_path / "model.gguf", "F16", verify=False)
    model = Model(tmp_path / "model.gguf")
    texts = reply_texts(model, TALK)
    replies = [TALK[1]["content"], TALK[3]["content"]]
    assert [spelled(model, text, True) for text in texts] == replies
    assert "...<|im_end|>" in spelled(model, texts[1], False)
    model.close()


def test_what_does_not_fit_the_context_is_left_out_and_counted(tiny: Path) -> None:
    text = TokenizedText(list(range(20, 320)), [True] * 300)
    with ModelComparison(tiny / "tiny.gguf", tiny / "tiny.gguf", context=512) as comparison:
        complete = comparison.compare(text)
        nothing = comparison.compare(TokenizedText([20, 21], [False, False]))
    with ModelComparison(tiny / "tiny.gguf", tiny / "tiny.gguf", context=256) as comparison:
        short = comparison.compare(text)
    assert (complete.nll.size, complete.overflow) == (299, 0)  # nothing predicts the first
    assert (short.nll.size, short.overflow) == (255, 44)
    assert np.allclose(short.nll, complete.nll[:255], atol=1e-3)
    assert concatenate([short, complete]).overflow == 44
    assert nothing.nll.size == 0


def test_models_that_cannot_be_compared_are_refused(
    tiny: Path, base_gguf: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"tiny\.gguf: has 640 tokens, .* has 49152; compare files"):
        ModelComparison(base_gguf, tiny / "tiny.gguf")
    shutil.copy(tiny / "tiny.gguf", tmp_path / "broken.gguf")
    reader = gguf.GGUFReader(tmp_path / "broken.gguf", "r+")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    tensors["output_norm.weight"][:] = np.nan
    with pytest.raises(BadInput, match=r"broken\.gguf: the model's logits are not numbers"):
        ModelComparison(tiny / "tiny.gguf", tmp_path / "broken.gguf")


def test_speed_and_memory_are_those_of_a_process_of_its_own(f16: Path, tmp_path: Path) -> None:
    one = measure_speed(f16, HUMOR, BackendOptions(1, 256), tokens=4, repeats=1)
    many = measure_speed(f16, HUMOR, BackendOptions(4, 1024), tokens=16, repeats=1)
    assert one.tokens_per_second > 0
    assert one.peak_bytes > f16.stat().st_size
    cache = 2 * 2 * 30 * 192 * (4 * 1024 - 256)  # K and V, F16, 30 layers of width 192
    assert many.peak_bytes - one.peak_bytes == pytest.approx(cache, rel=0.25)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(BadInput, match=r"text\.gguf: not a GGUF file"):
        measure_speed(tmp_path / "text.gguf")
