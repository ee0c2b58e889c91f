"""What the converters refuse, and files that are never left half written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3Config

from charprobe_lite.convert import gguf_model
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.verify import compare_logits
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from tests.checkpoints import gguf_logits, make_adapter, make_checkpoint
from tests.conftest import RUN, Command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # what peft thinks of ties


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama3", tmp_path_factory.mktemp("base") / "llama3")


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
    cases["truncated"] = (cut, good, f"{shards[-1]}: not a complete safetensors file")
    missing = copy("missing", base)
    (missing / shards[0]).unlink()
    cases["missing shard"] = (missing, good, f"{shards[0]}: shard is missing")
    garbage = copy("garbage", base)
    (garbage / shards[0]).write_bytes(b"\xff" * 4096)
    cases["corrupted"] = (garbage, good, f"{shards[0]}: not a complete safetensors file")
    pickled = copy("pickled", good)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cases["pickled"] = (base, pickled, "adapter_model.bin: pickled adapters are never opened")
    other = copy("other", base)
    edit(other / "config.json", architectures=["MambaForCausalLM"])
    cases["architecture"] = (other, good, "field architectures: MambaForCausalLM is not built in")
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
    edit(scaling / "config.json", rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    cases["rope"] = (scaling, good, "field rope_scaling: dynamic is not converted")
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
    merge_lora(base, [twice], tmp_path / "double.gguf", "F32", verify=False)
    merge_lora(base, [one, two], tmp_path / "sum.gguf", "F32", verify=False)
    found = compare_logits(
        gguf_logits(tmp_path / "double.gguf"), gguf_logits(tmp_path / "sum.gguf")
    )
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
    assert found.rope_theta == reference.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert found.max_position_embeddings == reference.max_position_embeddings
    assert found.tie_word_embeddings
    assert (found.rope.kind, found.rope.factor, found.sliding_window) == ("linear", 8.0, 1024)


def test_gemmas_published_27b_is_taken() -> None:
    from charprobe_lite.convert.architectures import read_config

    published = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 128,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "model_type": "gemma3_text",
            "num_attention_heads": 32,
            "num_hidden_layers": 62,
            "num_key_value_heads": 16,
            "query_pre_attn_scalar": 168,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    }
    assert read_config(published, "config.json").head_dim == 128


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_wrong_with_an_input_is_one_line(
    base: Path, tmp_path: Path, charprobe: Command
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, (model, adapter, line) in broken(tmp_path, base).items():
        with pytest.raises(BadInput) as refused:
            merge_lora(model, [adapter], out / "model.gguf", "F16", verify=False)
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
            merge_lora(tmp_path / "base", [], tmp_path / "model.gguf", quant)
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
        [*RUN, *map(str, arguments)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("*.part")) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == "stopped; the same command continues from here"
    assert not list(tmp_path.iterdir())


def test_blocks_do_not_change_what_is_written(
    base: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_lora(base, [], tmp_path / "one.gguf", "Q8_0", threads=1, verify=False)
    monkeypatch.setattr(gguf_model, "BLOCK", 300)
    merge_lora(base, [], tmp_path / "two.gguf", "Q8_0", threads=3, verify=False)
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


def test_a_pipe_is_not_replaced_by_a_file_and_a_link_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe: is no regular file; name another one"):
        new_file(tmp_path / "pipe").__enter__()
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store/model.gguf")
    with new_file(tmp_path / "link") as part:
        part.write_text("whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "model.gguf").read_text() == "whole"
