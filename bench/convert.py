"""Merge and F16 export against peft.merge_and_unload + save, on a Llama-3.1-shaped checkpoint.

    python bench/convert.py --layers 1,4

Writes synthetic checkpoints (real layer sizes of Llama-3.1-8B, fewer layers, random weights) and
a LoRA of rank 64 on all seven matrices, runs both sides by turns in processes of their own, and
prints peak resident memory and wall time of each with their ratios. Needs the extra `convert` and
about 4 times the checkpoint's size on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

HIDDEN, FFN, HEADS, KV_HEADS, VOCABULARY, RANK = 4096, 14336, 32, 8, 128256, 64
PUBLISHED = 8_030_261_248
SIDES = {
    "charprobe": """
import sys
from pathlib import Path
from charprobe_lite.convert.merge import merge_lora
base, adapter, target = map(Path, sys.argv[1:4])
merge_lora(base, [adapter], target / "model.gguf", "F16", verify=False)
""",
    "peft": """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, target = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(target)
""",
}
MEASURED = """
import json, resource, sys, time
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
if sys.platform == "linux":  # ru_maxrss would start with what the benchmark itself holds
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"seconds": seconds, "peak_bytes": peak}}))
"""


@click.command()
@click.option("--layers", default="1,4", show_default=True, help="Sizes to compare.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(layers: str, rounds: int, as_json: bool) -> None:
    """Compare both ways from a checkpoint and a LoRA to a merged file."""
    found = {}
    for count in map(int, layers.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            base, adapter = Path(folder) / "base", Path(folder) / "adapter"
            parameters = write_checkpoint(base, count)
            write_adapter(adapter, count)
            found[count] = {"parameters": parameters, **compare(base, adapter, rounds)}
            click.echo(f"{count} layers: {json.dumps(found[count])}", err=True)
    if as_json:
        click.echo(json.dumps(found))
        return
    for count, each in found.items():
        ours, theirs = each["charprobe"], each["peft"]
        click.echo(
            f"{count} layers, {each['parameters'] / 1e9:.2f}B weights: "
            f"peak memory {ours['peak_bytes'] / 1e6:.0f} MB against "
            f"{theirs['peak_bytes'] / 1e6:.0f} MB = {each['memory_ratio']:.2f} x; "
            f"time {ours['seconds']:.1f} s against {theirs['seconds']:.1f} s = "
            f"{each['time_ratio']:.2f} x"
        )
    last = found[max(found)]
    seconds = last["charprobe"]["seconds"] * PUBLISHED / last["parameters"]
    click.echo(f"at that rate an 8B model takes {seconds / 60:.1f} min")


def write_checkpoint(folder: Path, layers: int) -> int:
    """A Llama-3.1-shaped checkpoint in bfloat16; the number of weights in it."""
    import numpy as np

    from tests.checkpoints import write_tokenizer

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.02, 1 << 20).astype(np.float32)
    bits = (block.view(np.uint32) >> 16).astype(np.uint16)
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(layers):
        for name, shape in layer_shapes().items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    weight_map, total = {}, 0
    for number, (name, shape) in enumerate(shapes.items()):
        file = f"model-{number + 1:05}-of-{len(shapes):05}.safetensors"
        size = int(np.prod(shape))
        write_bfloat16(folder / file, name, shape, np.resize(bits, size))
        weight_map[name], total = file, total + size
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config(layers)))
    write_tokenizer("llama-bpe", folder)
    return total


def write_bfloat16(file: Path, name: str, shape: tuple[int, ...], bits: Any) -> None:
    """One tensor as safetensors; numpy has no bfloat16 of its own."""
    entry = {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, bits.nbytes]}
    header = json.dumps({name: entry, "__metadata__": {"format": "pt"}}).encode()
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.write(bits.data)


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """(out, in) of a layer's tensors."""
    key = HIDDEN // HEADS * KV_HEADS
    return {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (key, HIDDEN),
        "self_attn.v_proj": (key, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }


def config(layers: int) -> dict[str, Any]:
    """config.json of the shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def write_adapter(folder: Path, layers: int) -> None:
    """A LoRA of rank 64, alpha 128 on all seven matrices, as the published ones."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    matrices = {name: shape for name, shape in layer_shapes().items() if len(shape) == 2}
    tensors = {}
    for layer in range(layers):
        for name, (rows, columns) in matrices.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = small(rng, (RANK, columns))
            tensors[f"{prefix}.lora_B.weight"] = small(rng, (rows, RANK))
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [name.split(".")[1] for name in matrices],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def small(rng: Any, shape: tuple[int, int]) -> Any:
    """Random float32 numbers of a trained adapter's size."""
    return rng.normal(0, 0.01, shape).astype("float32")


def compare(base: Path, adapter: Path, rounds: int) -> dict[str, Any]:
    """Both sides by turns; the median of each, and charprobe's as a multiple of peft's."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, code in SIDES.items():
            runs[name].append(run(code, base, adapter))
    middle = {
        name: {key: statistics.median(each[key] for each in every) for key in every[0]}
        for name, every in runs.items()
    }
    ours, theirs = middle["charprobe"], middle["peft"]
    return {
        **middle,
        "runs": runs,
        "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        "time_ratio": ours["seconds"] / theirs["seconds"],
    }


def run(code: str, base: Path, adapter: Path) -> dict[str, float]:
    """One side in a process of its own, with an empty target folder."""
    with tempfile.TemporaryDirectory(dir=base.parent) as target:
        os.sync()  # what an earlier round left to write is not this one's
        found = subprocess.run(
            [sys.executable, "-c", MEASURED.format(code=code), base, adapter, target],
            check=True,
            stdout=subprocess.PIPE,
        )
        shutil.rmtree(target)
        os.mkdir(target)
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
