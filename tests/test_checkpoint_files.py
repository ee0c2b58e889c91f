"""Checkpoint and adapter folders as other tools leave them, against transformers and peft."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.safetensors import open_safetensors
from charprobe_lite.convert.verify import TEXT, compare_logits, verify_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.llama import Model
from tests.checkpoints import (
    copy_fields,
    gguf_logits,
    load,
    logits_of,
    make_adapter,
    make_checkpoint,
)
from tests.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_checkpoint(kind, folder / kind) for kind in ("smollm2", "llama3", "qwen2")}


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def same_logits(file: Path, reference: Any, ids: list[int], limit: float = 1e-3) -> None:
    assert compare_logits(reference, gguf_logits(file, ids)).relative_error < limit


# one file beside the shards of an earlier save


def saved_again(base: Path, folder: Path) -> Path:
    """A copy whose weights were changed and saved as one file, beside the old shards."""
    copied(base, folder)
    weights: dict[str, Any] = {}
    for shard in folder.glob("model-*.safetensors"):
        weights |= load_file(shard)
    save_file(
        {name: values * np.float32(1.1) for name, values in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def test_one_file_goes_before_the_shards_of_an_earlier_save(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    both = saved_again(bases["llama3"], tmp_path / "both")
    merge_lora(both, [], tmp_path / "new.gguf", "F32")
    ids = list(range(40, 90))
    same_logits(tmp_path / "new.gguf", logits_of(both, None, ids), ids)
    for shard in both.glob("model-*.safetensors"):
        shard.unlink()  # the index alone stays
    merge_lora(both, [], tmp_path / "again.gguf", "F32")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()


def test_the_check_does_not_read_weights_as_the_conversion_does(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    both = saved_again(bases["llama3"], tmp_path / "both")
    merge_lora(bases["llama3"], [], tmp_path / "old.gguf", "F32", verify=False)
    with pytest.raises(BadInput, match="its logits differ"):
        verify_file(tmp_path / "old.gguf", both, [])


def test_a_checkpoint_without_one_of_its_tensors_is_no_reference(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    merge_lora(bases["llama3"], [], tmp_path / "model.gguf", "F32", verify=False)
    short = copied(bases["llama3"], tmp_path / "short")
    for shard in short.glob("model-*.safetensors"):
        kept = {name: tensor for name, tensor in load_file(shard).items() if "lm_head" not in name}
        save_file(kept, shard, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"tensor lm_head\.weight: missing"):
        verify_file(tmp_path / "model.gguf", short, [])


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ARRAYS = st.builds(
    lambda shape, kind, seed: np.random.default_rng(seed).normal(size=shape).astype(kind),
    st.lists(st.integers(1, 5), max_size=3),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 99),
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=4), st.data())
def test_safetensors_come_back_and_damaged_ones_are_one_line(
    tensors: dict[str, Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.safetensors"
        save_file(tensors, path)
        for name, tensor in open_safetensors(path).items():
            assert np.array_equal(tensor.read(), tensors[name].astype(np.float32))
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
        with suppress(BadInput):  # any other error fails
            for tensor in open_safetensors(path).values():
                tensor.read()


@pytest.mark.parametrize("case", ["same", "other", "output alone"])
def test_a_tied_checkpoint_with_an_output_of_its_own_is_what_transformers_loads(
    bases: dict[str, Path], tmp_path: Path, cache: Path, case: str
) -> None:
    base = copied(bases["smollm2"], tmp_path / "base")
    tensors: dict[str, Any] = {}
    for shard in base.glob("model-*"):
        tensors |= load_file(shard)
        shard.unlink()
    name = "model.embed_tokens.weight"
    tensors["lm_head.weight"] = tensors[name] * np.float32(1.5 if case == "other" else 1)
    if case == "output alone":
        del tensors[name]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    # accelerate cannot map an output that stands in for the embedding
    merge_lora(base, [], tmp_path / "model.gguf", "F32", verify=case != "output alone")
    ids = list(range(40, 80))
    same_logits(tmp_path / "model.gguf", logits_of(base, None, ids), ids)
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert ("output.weight" in names) == (case == "other")


# split GGUF files


def split(file: Path, folder: Path, count: int) -> list[Path]:
    """A GGUF file in parts, as llama.cpp's tool splits it: metadata in the first, no tensors."""
    reader = gguf.GGUFReader(file)
    groups = np.array_split(np.arange(len(reader.tensors)), count - 1)
    paths = [folder / f"model-{n + 1:05d}-of-{count:05d}.gguf" for n in range(count)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            copy_fields(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for index in groups[number - 1] if number else ():
            tensor = reader.tensors[index]
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        finish_gguf(writer)
    return paths


def test_all_parts_of_a_split_gguf_are_read(
    bases: dict[str, Path], tmp_path: Path, cache: Path, charprobe: Command
) -> None:
    merge_lora(bases["llama3"], [], tmp_path / "one.gguf", "F16", verify=False)
    parts = split(tmp_path / "one.gguf", tmp_path, 3)
    adapter = make_adapter(tmp_path / "adapter", bases["llama3"])
    for base, name in ((tmp_path / "one.gguf", "from-one"), (parts[0], "from-parts")):
        merge_lora(base, [adapter], tmp_path / f"{name}.gguf", "F16")
    tensors = [
        {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("from-one", "from-parts")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert all((tensors[0][name] == tensors[1][name]).all() for name in tensors[0])
    result = charprobe("convert", "quantize", "--model", parts[0], "--quant", "Q8_0")
    assert result.returncode == 0, result.stderr
    with closing(Forward(tmp_path / "model-Q8_0.gguf")) as model:
        assert np.isfinite(model.logits([5, 6, 7])).all()


def test_another_part_than_the_first_and_a_missing_one_are_named(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    merge_lora(bases["llama3"], [], tmp_path / "one.gguf", "F16", verify=False)
    parts = split(tmp_path / "one.gguf", tmp_path, 3)
    with pytest.raises(BadInput, match=r"is part 2 of 3; name model-00001-of-00003.gguf"):
        merge_lora(parts[1], [], tmp_path / "out.gguf", "F16", verify=False)
    renamed = parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(BadInput, match=r"is part 1 of 3; name it NAME-00001-of-00003.gguf"):
        merge_lora(renamed, [], tmp_path / "out.gguf", "F16", verify=False)
    renamed.rename(parts[0])
    parts[2].unlink()
    with pytest.raises(BadInput, match=r"model-00003-of-00003.gguf: missing"):
        merge_lora(parts[0], [], tmp_path / "out.gguf", "F16", verify=False)
    assert not (tmp_path / "out.gguf").exists()


# configurations


@pytest.mark.parametrize("kind", ["qwen2", "llama3"])
def test_yarn_is_converted(bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str) -> None:
    base = copied(bases[kind], tmp_path / "base")
    block = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    edit(base / "config.json", rope_parameters={**block, "rope_theta": 1e6})
    assert merge_lora(base, [], tmp_path / "yarn.gguf", "F32").agreement is not None
    ids = list(range(30, 126))  # three of the original contexts
    reference = logits_of(base, None, ids)
    same_logits(tmp_path / "yarn.gguf", reference, ids)
    assert compare_logits(reference, logits_of(bases[kind], None, ids)).relative_error > 0.01


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta_fast", 16),
        ("attention_factor", 1.5),
        ("truncate", False),
        ("partial_rotary_factor", 0.5),
        ("mscale", 0.7),
        ("a_field_of_tomorrow", 2),
    ],
)
def test_a_rotary_field_that_llama_cpp_computes_without_is_refused(
    bases: dict[str, Path], tmp_path: Path, field: str, value: object
) -> None:
    base = copied(bases["qwen2"], tmp_path / "base")
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    edit(base / "config.json", rope_parameters={**yarn, "attention_factor": 0.1 * math.log(4) + 1})
    merge_lora(base, [], tmp_path / "usual.gguf", "F16", verify=False)
    edit(base / "config.json", rope_parameters={**yarn, field: value})
    with pytest.raises(BadInput, match=rf"config.json: field rope_scaling.{field}: {value}"):
        merge_lora(base, [], tmp_path / "model.gguf", "F16", verify=False)


@pytest.mark.parametrize(
    "method", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "fp8"}]
)
def test_a_quantized_base_is_named_as_such(
    bases: dict[str, Path], tmp_path: Path, method: dict[str, Any]
) -> None:
    base = copied(bases["qwen2"], tmp_path / "base")
    shard = next(base.glob("model-*.safetensors"))
    header = {"model.norm.weight": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(BadInput, match=r"tensor model\.norm\.weight has type F8_E4M3, not one of"):
        merge_lora(base, [], tmp_path / "model.gguf", "F16", verify=False)
    edit(base / "config.json", quantization_config=method)
    match = f"config.json: field quantization_config: {method['quant_method']}; name the unquant"
    with pytest.raises(BadInput, match=match):
        merge_lora(base, [], tmp_path / "model.gguf", "F16", verify=False)


# adapters


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_merged_and_verified(
    bases: dict[str, Path], tmp_path: Path, cache: Path, bias: str
) -> None:
    base, adapter = bases["qwen2"], tmp_path / "adapter"
    torch.manual_seed(2)
    model = get_peft_model(load(base), LoraConfig(r=4, target_modules=["q_proj"], bias=bias))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or name.endswith(".bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(adapter)
    merge_lora(base, [adapter], tmp_path / "model.gguf", "F32")
    ids = list(range(20, 70))
    same_logits(tmp_path / "model.gguf", logits_of(base, adapter, ids), ids)
    with pytest.raises(BadInput, match="saved complete, which an adapter at run time cannot"):
        convert_adapter(adapter, base, tmp_path / "lora.gguf")


@pytest.mark.parametrize("rows", [704, 620])
@pytest.mark.parametrize("kind", ["smollm2", "llama3"])  # with a tied output, and without
def test_a_changed_vocabulary_is_merged_with_the_adapters_own_tokenizer(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str, rows: int
) -> None:
    base, adapter = bases[kind], tmp_path / "adapter"
    torch.manual_seed(3)
    model = load(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name or "embed_tokens" in name or "lm_head" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(adapter)
    with pytest.raises(BadInput, match=f"vocabulary has {rows} rows, the base's 640; put the tok"):
        merge_lora(base, [adapter], tmp_path / "model.gguf", "F32", verify=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, adapter / name)
    tokenizer = json.loads((adapter / "tokenizer.json").read_text())
    added = {**tokenizer["added_tokens"][-1], "id": 600, "content": "<|persona|>"}
    tokenizer["added_tokens"].append(added)
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    merge_lora(base, [adapter], tmp_path / "model.gguf", "F32")
    reference = load(base)
    reference.resize_token_embeddings(rows, mean_resizing=False)
    ids = [*range(20, 60), 600]
    with torch.no_grad():
        tuned = PeftModel.from_pretrained(reference, adapter).eval()
        logits = tuned(input_ids=torch.tensor([ids])).logits[0].numpy()
    same_logits(tmp_path / "model.gguf", logits, ids)
    with closing(Model(tmp_path / "model.gguf")) as merged:
        assert merged.vocabulary_size == rows
        assert merged.tokenize("<|persona|>", add_bos=False) == [600]


@pytest.mark.parametrize(
    ("kind", "saved"), [("llama3", ["embed_tokens", "lm_head"]), ("smollm2", ["embed_tokens"])]
)
def test_a_changed_vocabulary_in_modules_to_save_is_merged(
    bases: dict[str, Path], tmp_path: Path, cache: Path, kind: str, saved: list[str]
) -> None:
    base, adapter = bases[kind], tmp_path / "adapter"

    def resized() -> Any:
        model = load(base)
        model.resize_token_embeddings(648, mean_resizing=False)
        return model

    tuned = get_peft_model(
        resized(), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    )
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(adapter)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, adapter / name)
    merge_lora(base, [adapter], tmp_path / "model.gguf", "F32")
    ids = [*range(20, 60), 645]
    with torch.no_grad():
        reference = PeftModel.from_pretrained(resized(), adapter).eval()
        logits = reference(input_ids=torch.tensor([ids])).logits[0].numpy()
    same_logits(tmp_path / "model.gguf", logits, ids)


def test_a_tied_output_whose_new_rows_were_not_saved_is_named(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases["smollm2"], modules_to_save=["embed_tokens"])
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    for name in [name for name in weights if "embed_tokens" in name]:
        weights[name] = np.concatenate([weights[name], weights[name][:8]])
    save_file(weights, path)
    with pytest.raises(BadInput, match="the tied output's new rows were not saved; save lm_head"):
        merge_lora(bases["smollm2"], [adapter], tmp_path / "m.gguf", "F32", verify=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_of_no_numbers_is_refused_by_tensor(
    bases: dict[str, Path], tmp_path: Path, value: float
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases["llama3"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = sorted(tensors)[5]
    tensors[name][-1, -1] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(BadInput) as refused:
        merge_lora(bases["llama3"], [adapter], tmp_path / "model.gguf", "F16", verify=False)
    assert f"adapter_model.safetensors: tensor {name}: holds NaN or infinity" in str(refused.value)


def test_a_base_whose_numbers_do_not_fit_the_type_is_refused_by_tensor(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    base = copied(bases["llama3"], tmp_path / "base")
    shard = next(
        each for each in base.glob("model-*") if any("q_proj" in name for name in load_file(each))
    )
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name][0, 0] = 1e6
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"tensor blk\.\d\.attn_q\.weight: 1e\+06 does not fit F16"):
        merge_lora(base, [], tmp_path / "model.gguf", "F16", verify=False)
    merge_lora(base, [], tmp_path / "model.gguf", "BF16", verify=False)
    tensors[name][0, 0] = math.nan
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"tensor blk\.\d\.attn_q\.weight: holds NaN or infinity"):
        merge_lora(base, [], tmp_path / "model.gguf", "BF16", verify=False)


# chat templates and the tokens that end a turn

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def template_of(file: Path) -> str:
    return str(gguf.GGUFReader(file).fields["tokenizer.chat_template"].contents())


@pytest.mark.parametrize("where", ["jinja", "names", "adapter"])
def test_a_chat_template_is_the_one_that_transformers_uses(
    bases: dict[str, Path], tmp_path: Path, cache: Path, where: str
) -> None:
    base, adapters = copied(bases["smollm2"], tmp_path / "base"), []
    if where == "jinja":
        (base / "chat_template.jinja").write_text(PLAIN)
    elif where == "names":
        names = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": PLAIN}]
        edit(base / "tokenizer_config.json", chat_template=names)
    else:
        adapters = [make_adapter(tmp_path / "adapter", base)]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(base / name, adapters[0] / name)
        (adapters[0] / "chat_template.jinja").write_text(PLAIN)
    merge_lora(base, adapters, tmp_path / "model.gguf", "F32")
    messages = [{"role": "user", "content": "Hello"}]
    expected = AutoTokenizer.from_pretrained([base, *adapters][-1]).apply_chat_template(
        messages, tokenize=False
    )
    assert template_of(tmp_path / "model.gguf") == PLAIN
    with closing(Model(tmp_path / "model.gguf")) as model:
        assert model.render(messages) == expected == "<user>Hello"


def test_a_template_that_does_not_compile_is_refused_before_anything_is_written(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    base = copied(bases["smollm2"], tmp_path / "base")
    (base / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(BadInput, match=r"chat_template.jinja: chat template: does not compile"):
        merge_lora(base, [], tmp_path / "model.gguf", "F32")


@pytest.mark.parametrize("listed", [[2, 5, 9], 5])
def test_every_end_token_of_the_generation_config_ends_a_turn(
    bases: dict[str, Path], tmp_path: Path, cache: Path, listed: Any
) -> None:
    base = copied(bases["smollm2"], tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    merge_lora(base, [], tmp_path / "model.gguf", "F32")
    with closing(Model(tmp_path / "model.gguf")) as model:
        assert {2, *np.atleast_1d(listed)} <= set(model.end_tokens)
        assert model.ends(5)
        assert not model.ends(40)


# token ids that differ


def test_the_first_token_that_differs_is_named(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    merge_lora(bases["qwen2"], [], tmp_path / "model.gguf", "F32", verify=False)
    base = copied(bases["qwen2"], tmp_path / "base")
    found = json.loads((base / "tokenizer.json").read_text())
    found["model"]["merges"] = [
        pair for pair in found["model"]["merges"] if "in" not in "".join(pair)
    ]
    (base / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(
        BadInput, match=r"token ids of .* differ from the \d+\. on: llama\.cpp"
    ) as said:
        verify_file(tmp_path / "model.gguf", base, [])
    ours, theirs = str(said.value).split("llama.cpp ")[1].split(", " + str(base))
    assert ours.split(",")[0] != theirs.split(" ", 1)[1].split(",")[0].strip()


def test_a_good_merge_says_nothing_of_other_libraries(
    bases: dict[str, Path], tmp_path: Path, charprobe: Command
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases["smollm2"], "saved")
    result = charprobe(
        *("convert", "merge", "--base", bases["smollm2"], "--adapter", adapter),
        *("-o", "model.gguf", "--json"),
    )
    assert result.returncode == 0, result.stderr
    for word in ("arning", "it/s]", "meta device", "Loading weights"):
        assert word not in result.stderr
    assert TEXT not in result.stderr


# importance matrices


def legacy(means: dict[str, Any], path: Path, calls: int = 3) -> Path:
    """llama.cpp's importance matrix format before GGUF, written by hand."""
    parts = [len(means).to_bytes(4, "little")]
    for name, values in means.items():
        parts += [len(name).to_bytes(4, "little"), name.encode()]
        parts += [calls.to_bytes(4, "little"), len(values).to_bytes(4, "little")]
        parts += [(np.asarray(values, "<f4") * calls).tobytes()]
    parts += [(7).to_bytes(4, "little"), (4).to_bytes(4, "little"), b"text"]
    path.write_bytes(b"".join(parts))
    return path


def test_an_importance_matrix_of_another_model_is_refused(
    bases: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    from charprobe_lite.convert.imatrix import calibration_text, make_imatrix, read_imatrix
    from charprobe_lite.convert.quantize import quantize

    merge_lora(bases["llama3"], [], tmp_path / "model.gguf", "F16", verify=False)
    make_imatrix(tmp_path / "model.gguf", calibration_text(), tmp_path / "i.gguf", 2)
    means = read_imatrix(tmp_path / "i.gguf")
    same = read_imatrix(legacy(means, tmp_path / "i.dat"))
    assert same.keys() == means.keys()
    assert all(np.allclose(same[name], means[name], rtol=1e-6) for name in means)
    cases = {
        "blk.7.attn_q.weight: .* does not have it": {**means, "blk.7.attn_q.weight": np.ones(64)},
        "blk.0.attn_q.weight: 32 inputs, .* has 64": {**means, "blk.0.attn_q.weight": np.ones(32)},
        "has nothing of layer 2 of": {k: v for k, v in means.items() if "blk.2" not in k},
    }
    for message, values in cases.items():
        other = legacy(values, tmp_path / "other.dat")
        with pytest.raises(BadInput, match=message):
            quantize(tmp_path / "model.gguf", "Q4_0", tmp_path / "q.gguf", other)
        with pytest.raises(BadInput, match=message):
            merge_lora(
                bases["llama3"], [], tmp_path / "q.gguf", "Q4_0", verify=False, imatrix=other
            )
    quantize(tmp_path / "model.gguf", "Q4_0", tmp_path / "q.gguf", tmp_path / "i.dat")
    (tmp_path / "i.dat").write_bytes((tmp_path / "i.dat").read_bytes()[:500])
    with pytest.raises(BadInput, match=r"i\.dat: neither GGUF nor an importance matrix of the old"):
        quantize(tmp_path / "model.gguf", "Q4_K_M", tmp_path / "q2.gguf", tmp_path / "i.dat")
