"""Quant types and importance matrices of converted files."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.verify import compare_logits
from charprobe_lite.models.gguf_header import weight_summary
from tests.checkpoints import gguf_logits, load, make_checkpoint
from tests.conftest import Command, ValidJson


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose rows are multiples of 256, which K-types need."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    return make_checkpoint("llama3", folder / "base", **sizes)


def test_k_types_hold_what_they_say_where_rows_are_wide_enough(
    wide: Path, tmp_path: Path, charprobe: Command, valid_json: ValidJson
) -> None:
    merge_lora(wide, [], tmp_path / "model.gguf", "F16", verify=False)
    result = charprobe(
        *("convert", "quantize", "--model", "model.gguf", "--quant", "Q4_K_M,Q2_K", "--json")
    )
    assert result.returncode == 0, result.stderr
    valid_json(json.loads(result.stdout), "convert-quantize")
    rows = {row["name"]: row for row in json.loads(result.stdout)["files"]}
    assert {"Q4_K", "Q6_K", "F32"} == set(rows["Q4_K_M"]["tensor_types"])
    assert 4.5 < rows["Q4_K_M"]["bits_per_weight"] < 5.5
    assert 2.5 < rows["Q2_K"]["bits_per_weight"] < 3.6
    assert (
        compare_logits(
            gguf_logits(tmp_path / "model.gguf"), gguf_logits(tmp_path / "model-Q4_K_M.gguf")
        ).top1
        > 0.3
    )


def test_one_file_is_not_written_for_two_types(
    wide: Path, tmp_path: Path, charprobe: Command
) -> None:
    merge_lora(wide, [], tmp_path / "model.gguf", "F16", verify=False)
    arguments = ("convert", "quantize", "--model", "model.gguf", "-o", "out.gguf", "--quant")
    result = charprobe(*arguments, "Q4_0,Q8_0")
    assert result.returncode == 2
    assert result.stderr.strip().endswith("one file for 2 types; name a folder")
    assert not (tmp_path / "out.gguf").exists()
    assert charprobe(*arguments, "Q4_0").returncode == 0
    assert weight_summary(tmp_path / "out.gguf").main_type == "Q4_0"


def test_a_good_file_is_neither_replaced_nor_quantized_twice_unasked(
    wide: Path, tmp_path: Path, charprobe: Command
) -> None:
    merge_lora(wide, [], tmp_path / "model.gguf", "F16", verify=False)
    arguments = ("convert", "quantize", "--model", "model.gguf", "-o", "out.gguf", "--quant")
    assert charprobe(*arguments, "Q8_0").returncode == 0
    before = (tmp_path / "out.gguf").read_bytes()
    again = charprobe(*arguments, "Q4_0")
    assert again.returncode == 2
    assert "out.gguf: exists already; name another -o, or replace it with --force" in again.stderr
    assert (tmp_path / "out.gguf").read_bytes() == before
    twice = ("convert", "quantize", "--model", "out.gguf", "-o", "twice.gguf", "--quant", "Q4_0")
    refused = charprobe(*twice)
    assert refused.returncode == 2
    assert "out.gguf: is quantized already (Q8_0)" in refused.stderr
    assert not (tmp_path / "twice.gguf").exists()
    assert charprobe(*twice, "--allow-requantize").returncode == 0
    assert charprobe(*arguments, "Q4_0", "--force").returncode == 0
    assert weight_summary(tmp_path / "out.gguf").main_type == "Q4_0"


def test_rows_that_are_too_narrow_fall_back_and_the_table_shows_it(
    base_gguf: Path, tmp_path: Path, charprobe: Command
) -> None:
    merge_lora(base_gguf, [], tmp_path / "model.gguf", "F16", verify=False)
    result = charprobe("convert", "quantize", "--model", "model.gguf", "--quant", "Q4_K_M")
    assert result.returncode == 0, result.stderr
    row = next(line for line in result.stdout.splitlines() if "Q4_K_M.gguf" in line)
    assert "Q5_0" in row
    assert "Q8_0" in row
    assert weight_summary(tmp_path / "model-Q4_K_M.gguf").bits_per_weight > 5.5


def test_an_importance_matrix_says_which_inputs_matter(
    wide: Path, tmp_path: Path, charprobe: Command
) -> None:
    from charprobe_lite.convert.imatrix import read_imatrix

    merge_lora(wide, [], tmp_path / "model.gguf", "F32", verify=False)
    made = charprobe("convert", "imatrix", "--model", "model.gguf", "--chunks", 2, "-o", "i.gguf")
    assert made.returncode == 0, made.stderr
    found = read_imatrix(tmp_path / "i.gguf")
    assert len(found) == 7 * 3
    assert found["blk.1.ffn_down.weight"].shape == (512,)
    # the first layer's inputs are the normalised embeddings of the tokens
    reader = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    with closing(Forward(tmp_path / "model.gguf")) as model:
        from charprobe_lite.convert.imatrix import calibration_text

        ids = model.tokenize(calibration_text())[: 2 * 512]
    rows = reader["token_embd.weight"][ids]
    rows = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)
    expected = ((rows * reader["blk.0.attn_norm.weight"]) ** 2).mean(axis=0)
    assert np.allclose(found["blk.0.attn_q.weight"], expected, rtol=1e-3)
    without = charprobe("convert", "quantize", "--model", "model.gguf", "--quant", "IQ2_XXS")
    assert without.returncode == 2
    assert "--quant IQ2_XXS: needs --imatrix FILE" in without.stderr
    used = charprobe(
        *("convert", "quantize", "--model", "model.gguf", "--quant", "IQ2_XXS"),
        *("--imatrix", "i.gguf"),
    )
    assert used.returncode == 0, used.stderr
    assert "IQ2_XXS" in weight_summary(tmp_path / "model-IQ2_XXS.gguf").tensor_types


def test_every_chunk_of_an_importance_matrix_begins_as_a_sequence(
    tmp_path: Path, cache: Path
) -> None:
    """As llama.cpp's tool has it: where the vocabulary asks for a first token."""
    from charprobe_lite.convert.imatrix import calibration_text, make_imatrix, read_imatrix

    base = make_checkpoint("llama3", tmp_path / "base")
    settings = base / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "add_bos_token": True}))
    merge_lora(base, [], tmp_path / "model.gguf", "F32", verify=False)
    make_imatrix(tmp_path / "model.gguf", calibration_text(), tmp_path / "i.gguf", 3)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    ids = [bos, *tokenizer.encode(calibration_text(), add_special_tokens=False).ids]
    chunks = np.array(ids[: 3 * 512]).reshape(3, 512)
    chunks[:, 0] = bos
    model = load(base).model
    with torch.no_grad():
        inputs = model.layers[0].input_layernorm(model.embed_tokens(torch.from_numpy(chunks)))
    expected = inputs.numpy().reshape(-1, 64).astype(np.float64) ** 2
    found = read_imatrix(tmp_path / "i.gguf")["blk.0.attn_q.weight"]
    assert np.allclose(found, expected.mean(axis=0), rtol=1e-4)
