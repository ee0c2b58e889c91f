"""Checkpoints of architectures that are not built in, on their way to llama.cpp's converter.

With CHARPROBE_CONVERTER, the place of convert_hf_to_gguf.py (and sentencepiece installed), the
last test runs it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
)

from charprobe_lite.convert.llama_cpp_converter import SCRIPT, write_merged_checkpoint
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.eval.cli.main import main
from charprobe_lite.models.errors import BadInput

CONVERTER = os.environ.get("CHARPROBE_CONVERTER")


@pytest.fixture
def checkpoint(tmp_path: Path, base_gguf: Path) -> tuple[Path, Path]:
    """An Olmo2 of random weights with SmolLM2's tokenizer, and a LoRA on it."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 49152,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model = Olmo2ForCausalLM(Olmo2Config(**sizes, **heads, **ids))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.1 if "norm" in name else weight.shape[-1] ** -0.5
            weight.add_(torch.randn_like(weight) * spread)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "olmo", max_shard_size="5MB")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read_tokenizer(base_gguf), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(tmp_path / "olmo")
    modules = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    return tmp_path / "olmo", tmp_path / "lora"


def load(folder: Path) -> Olmo2ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def test_a_merged_checkpoint_has_the_weights_that_peft_gives_it(
    checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = checkpoint
    (tmp_path / "merged").mkdir()
    write_merged_checkpoint(base, [adapter], tmp_path / "merged")
    expected = PeftModel.from_pretrained(load(base), str(adapter)).merge_and_unload().state_dict()
    found = load(tmp_path / "merged").state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)


def test_code_of_a_checkpoint_is_not_brought_along(
    checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = checkpoint
    (base / "modeling_olmo.py").write_text("raise SystemExit")
    (tmp_path / "merged").mkdir()
    write_merged_checkpoint(base, [adapter], tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("*.py"))


def test_an_adapter_of_another_base_is_named(checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = checkpoint
    config = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    deeper = Olmo2ForCausalLM(
        Olmo2Config(hidden_size=64, intermediate_size=96, num_hidden_layers=3, vocab_size=8)
    )
    get_peft_model(deeper, config).save_pretrained(tmp_path / "other")
    (tmp_path / "merged").mkdir()
    with pytest.raises(BadInput, match=r"other: tensor model\.layers\.2\..*does not have it"):
        write_merged_checkpoint(base, [tmp_path / "other"], tmp_path / "merged")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ((), f"Olmo2ForCausalLM is not built in; give --converter with llama.cpp's {SCRIPT}"),
        (("--converter", "nowhere"), "--converter nowhere: no such file"),
    ],
)
def test_without_a_converter_one_line_says_what_is_missing(
    checkpoint: tuple[Path, Path], tmp_path: Path, option: tuple[str, ...], said: str
) -> None:
    arguments = ["--base", str(checkpoint[0]), *option, "-o", str(tmp_path / "m.gguf")]
    done = CliRunner().invoke(main, ["convert", "merge", *arguments], env={"PATH": ""})
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.skipif(not CONVERTER, reason="CHARPROBE_CONVERTER names no convert_hf_to_gguf.py")
@pytest.mark.parametrize("quant", ["F16", "Q5_0"])
def test_llama_cpps_converter_makes_the_model_of_transformers_and_peft(
    checkpoint: tuple[Path, Path], tmp_path: Path, quant: str
) -> None:
    base, adapter = checkpoint
    target = tmp_path / "merged.gguf"
    file = merge_lora(base, [adapter], target, quant, converter=str(CONVERTER))
    assert file.agreement is not None  # it was compared, and refused where it differs
    assert file.agreement.kl_max < 1e-4
    assert not list(tmp_path.glob("*.part"))
