"""Checkpoints of architectures that are not built in, on their way to llama.cpp's converter.

With CHARPROBE_CONVERTER, the place of convert_hf_to_gguf.py (and sentencepiece installed), the
last tests run it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from charprobe_lite.convert.llama_cpp_converter import SCRIPT, write_merged_checkpoint
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.reference import reference_logits
from charprobe_lite.convert.tokenizer import read_tokenizer
from charprobe_lite.convert.verify import compare_logits
from charprobe_lite.eval.cli.main import main
from charprobe_lite.models.errors import BadInput
from tests.checkpoints import gguf_logits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # what peft thinks of ties
CONVERTER = os.environ.get("CHARPROBE_CONVERTER")


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 49152,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
TIED = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "output": {"target_modules": ["q_proj", "lm_head"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved together": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}
"""What peft lets an adapter change where the output is the embedding."""


def write_checkpoint(model: Any, folder: Path, base_gguf: Path) -> Path:
    """A model of random weights, bfloat16, with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.1 if "norm" in name else weight.shape[-1] ** -0.5
            weight.add_(torch.randn_like(weight) * spread)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="5MB")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read_tokenizer(base_gguf), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, base_gguf: Path) -> tuple[Path, Path]:
    """An Olmo2, and a LoRA on it."""
    model = Olmo2ForCausalLM(Olmo2Config(**SIZES))
    base = write_checkpoint(model, tmp_path / "olmo", base_gguf)
    modules = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    return base, tmp_path / "lora"


@pytest.fixture
def tied(tmp_path: Path, base_gguf: Path) -> Path:
    """A Qwen3 whose output is its embedding."""
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True))
    return write_checkpoint(model, tmp_path / "qwen", base_gguf)


def write_adapter(folder: Path, base: Path, kind: str, **saving: Any) -> Path:
    """An adapter of TIED with random weights."""
    torch.manual_seed(1)
    model = get_peft_model(load(base), LoraConfig(r=4, lora_alpha=8, **TIED[kind]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder, **saving)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 69)[None]).logits[0]


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


@pytest.mark.parametrize("saving", [{}, {"save_embedding_layers": False}])
@pytest.mark.parametrize("kind", TIED)
def test_a_tied_output_is_merged_into_what_peft_computes(
    tied: Path, tmp_path: Path, kind: str, saving: dict[str, bool]
) -> None:
    adapter = write_adapter(tmp_path / "lora", tied, kind, **saving)
    (tmp_path / "merged").mkdir()
    write_merged_checkpoint(tied, [adapter], tmp_path / "merged")
    expected = logits(PeftModel.from_pretrained(load(tied), str(adapter)))
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)
    assert (logits(load(tied)) - expected).abs().max() > 1
    reference = torch.from_numpy(reference_logits(tied, [adapter], range(5, 69)))
    torch.testing.assert_close(reference, expected, rtol=1e-4, atol=1e-4)


def test_a_converter_that_keeps_a_tie_is_not_given_an_adapter_that_broke_it(
    tied: Path, tmp_path: Path
) -> None:
    """As llama.cpp's does with Gemma 2: it leaves out the output, which nobody would notice."""
    adapter = write_adapter(tmp_path / "lora", tied, "embedding")
    script = tmp_path / SCRIPT
    script.write_text(
        "import gguf, numpy, sys\n"
        "writer = gguf.GGUFWriter(sys.argv[sys.argv.index('--outfile') + 1], 'gemma2')\n"
        "writer.add_tensor('token_embd.weight', numpy.zeros((8, 8), 'f4'))\n"
        "writer.write_header_to_file()\n"
        "writer.write_kv_data_to_file()\n"
        "writer.write_tensors_to_file()\n"
        "writer.close()\n"
    )
    with pytest.raises(BadInput, match=r"lora: changes the embedding.*train it without"):
        merge_lora(tied, [adapter], tmp_path / "m.gguf", converter=script, verify=False)
    assert not (tmp_path / "m.gguf").exists()


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


@pytest.mark.skipif(not CONVERTER, reason="CHARPROBE_CONVERTER names no convert_hf_to_gguf.py")
@pytest.mark.parametrize("kind", TIED)
def test_llama_cpps_converter_takes_an_output_that_is_no_longer_the_embedding(
    tied: Path, tmp_path: Path, kind: str
) -> None:
    adapter = write_adapter(tmp_path / "lora", tied, kind)
    target, ids = tmp_path / "merged.gguf", list(range(5, 69))
    merge_lora(tied, [adapter], target, "F16", converter=str(CONVERTER))
    expected = logits(PeftModel.from_pretrained(load(tied), str(adapter))).numpy()
    assert compare_logits(expected, gguf_logits(target, ids)).kl_mean < 1e-4
