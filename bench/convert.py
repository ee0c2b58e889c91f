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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published_shapes import write_adapter, write_base
from ratios import Ratio, lines

from charprobe_lite.models.catalogue import load_catalogue

PUBLISHED = "llama-3.1-8b"
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
    published, found = load_catalogue().base(PUBLISHED), {}
    assert published.shape is not None
    for count in map(int, layers.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            base, adapter = Path(folder) / "base", Path(folder) / "adapter"
            shape = published.shape.model_copy(update={"layers": count})
            parameters = write_base(base, shape, None)
            write_adapter(adapter, shape)
            found[count] = {"parameters": parameters, **compare(base, adapter, rounds)}
            click.echo(f"{count} layers: {json.dumps(found[count])}", err=True)
    measured = ratios(found)
    if as_json:
        click.echo(json.dumps({"layers": found, "ratios": measured}, default=asdict))
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
    seconds = last["charprobe"]["seconds"] * published.parameters / last["parameters"]
    click.echo(f"at that rate an 8B model takes {seconds / 60:.1f} min")
    click.echo("\n".join(lines(measured)))


def ratios(found: dict[int, dict[str, Any]]) -> list[Ratio]:
    """charprobe's peak memory and time over peft's, round by round."""
    sides = ("peak memory of merging", "peak_bytes"), ("time of merging", "seconds")
    return [
        Ratio(
            f"{figure}, {each['parameters'] / 1e9:.2f}B weights",
            "peft.merge_and_unload and save",
            [
                ours[key] / theirs[key]
                for ours, theirs in zip(*(each["runs"][side] for side in SIDES), strict=True)
            ],
        )
        for each in found.values()
        for figure, key in sides
    ]


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
    main()
