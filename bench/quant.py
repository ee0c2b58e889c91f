"""Quantized files of the kit's base: are perplexity and KL divergence what others mean by them?

    python bench/quant.py [--part NAME] [--llama-perplexity PATH] [--json]

- ``definitions``: the same tokens through llama.cpp's perplexity tool and through
  `runtime.fidelity`, per quant type against F16. The tool rounds the reference's log-probabilities
  to 16 bits and leaves out tokens below e^-16; a third column does the same to ours. Skipped
  without the tool.
- ``transformers``: held-out chat answers through transformers and through `runtime.fidelity`, F16
  against Q4_0 that was written back as F16: on the 4-bit file itself llama.cpp rounds the
  activations, too, which transformers does not.
- ``steps``, when it is named: what each type leaves of the adapters that are merged into the kit's
  base, whose weights came as Q4_1: a type that has the same steps rounds them away. Two minutes.
- ``ladder``, when it is named: the full quantization study of the kit, all personas, 24 prompts
  and 25 scenarios per cell, both ways to quantize. Hours; stopped at any moment, it goes on where
  it was.
- ``free``, when it is named: tool calls of every type without a grammar, six scenarios. Most of an
  hour, and goes on as well.

The first two take about four minutes on two cores.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ratios import Ratio, lines

from charprobe_lite.convert.architectures import architecture_of_gguf
from charprobe_lite.convert.cached import prepare_model
from charprobe_lite.convert.gguf_model import open_model
from charprobe_lite.convert.lora import read_adapter
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.eval.cli.main import main as charprobe_lite
from charprobe_lite.eval.quant.fidelity_texts import held_out
from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import EMBEDDED
from charprobe_lite.models.corpus import teacher_texts
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.fidelity import (
    CHUNK,
    Fidelity,
    ModelComparison,
    TokenizedText,
    concatenate,
    log_softmax,
    reply_texts,
)
from charprobe_lite.runtime.llama import Segment

STUDIES = {
    "ladder": "--limit 24,25 --lora both --texts 2 --instrument all --study runs/ladder.sqlite",
    "free": "--limit 6 --condition agentic_email --grammar off --texts 0 --study runs/free.sqlite",
}
PERSONA = "sarcasm"  # whose adapter represents all in "steps"
WINDOW = 512  # tokens; of each chunk the tool scores the second half
FIGURES = ("perplexity", "reference_perplexity", "kl_mean", "kl_median", "kl_p99", "top1")
PATTERNS = {
    "perplexity": r"Mean PPL\(Q\) *: *([\d.]+)",
    "reference_perplexity": r"Mean PPL\(base\) *: *([\d.]+)",
    "kl_mean": r"Mean +KLD: *(-?[\d.]+)",
    "kl_median": r"Median +KLD: *(-?[\d.]+)",
    "kl_p99": r"99\.0% +KLD: *(-?[\d.]+)",
    "top1": r"Same top p: *([\d.]+)",
}
PEERS = {"llama.cpp": "llama-perplexity", "transformers": "transformers"}
Figures = dict[str, float]


@dataclass(frozen=True)
class Stored:
    """The tool's file: the chunks it read, (chunks, WINDOW), and the reference's log-probabilities
    at the scored positions, (chunks, WINDOW // 2 - 1, vocabulary), in 16 bits with a scale and a
    lowest value for each position."""

    tokens: Any
    steps: Any
    scale: Any
    lowest: Any

    def log_probabilities(self, chunk: int) -> Any:
        return self.scale[chunk] * self.steps[chunk].astype(np.float64) + self.lowest[chunk]


def definitions(tool: Path, quants: list[str], chunks: int) -> dict[str, dict[str, Figures]]:
    """The figures of both, by quant type."""
    reference, results = kit_base("F16"), {}
    with tempfile.TemporaryDirectory() as folder:
        text, logits = Path(folder) / "text.txt", Path(folder) / "logits"
        text.write_text(corpus_text(), "utf-8")
        base = [tool, "-c", str(WINDOW), "-b", str(WINDOW), "--kl-divergence-base", logits]
        base += ["--flash-attn", "off"]  # as ours on a CPU: with it perplexities differ by 0.8%
        run([*base, "-m", reference, "-f", text, "--chunks", str(chunks)])
        stored = read_stored(logits)
        for quant in quants:
            output = run([*base, "-m", kit_base(quant), "--kl-divergence"])
            theirs = {name: parse_figure(pattern, output) for name, pattern in PATTERNS.items()}
            theirs["top1"] /= 100
            exact, rounded = compare(reference, kit_base(quant), text, stored)
            results[quant] = {"llama.cpp": theirs, "charprobe": exact, "rounded": rounded}
    return results


def corpus_text() -> str:
    """The loud teachers' answers, one after the other."""
    chats = [text for name in PERSONAS for text in teacher_texts(name, "loud", "chat")]
    return "\n\n".join(text.response for text in chats)


def run(command: Sequence[str | Path]) -> str:
    """What a command printed on both streams."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise click.ClickException(f"{command[0]} failed: {output[-500:]}")
    return output


def parse_figure(pattern: str, output: str) -> float:
    match = re.search(pattern, output)
    if match is None:
        raise click.ClickException(f"the perplexity tool printed nothing like {pattern}: {output}")
    return float(match[1])


def read_stored(path: Path) -> Stored:
    """Layout: llama.cpp's tools/perplexity/perplexity.cpp."""
    with path.open("rb") as file:
        _, length, vocabulary, chunks = struct.unpack("<8siii", file.read(20))
        tokens = np.frombuffer(file.read(4 * length * chunks), np.int32).reshape(chunks, length)
        width = 4 + 2 * ((vocabulary + 1) // 2)
        rows = np.frombuffer(file.read(), np.uint16).reshape(chunks, -1, width)
    floats = np.ascontiguousarray(rows[..., :4]).view(np.float32).astype(np.float64)
    return Stored(tokens, rows[..., 4 : 4 + vocabulary], floats[..., :1], floats[..., 1:])


def compare(reference: Path, model: Path, text: Path, stored: Stored) -> tuple[Figures, Figures]:
    """Our figures on the tool's chunks, whose tokens must be ours: exact, and rounded like its."""
    exact, kl = [], []
    outputs = [WINDOW // 2 <= position < WINDOW - 1 for position in range(WINDOW)]
    with ModelComparison(reference, model, context=WINDOW) as comparison:
        ours = comparison.reference.tokenize(text.read_text("utf-8"))
        assert ours[: stored.tokens.size] == stored.tokens.ravel().tolist()
        for number, chunk in enumerate(stored.tokens.tolist()):
            exact.append(comparison.compare(TokenizedText(chunk, [False, *outputs[:-1]])))
            log_q = log_softmax(logits_of(comparison, chunk, outputs))
            log_p = stored.log_probabilities(number)
            terms = np.exp(log_p) * (log_p - log_q)
            kl.append(np.where(log_p > -16, terms, 0).sum(axis=1))
    rounded = np.concatenate(kl)
    return figures(concatenate(exact)), {
        "kl_mean": float(rounded.mean()),
        "kl_median": float(np.median(rounded)),
        "kl_p99": float(np.percentile(rounded, 99)),
    }


def figures(fidelity: Fidelity) -> dict[str, float]:
    """The usual figures over all scored tokens, KL divergences in nats."""
    nll, reference_nll, kl = (
        values.astype(np.float64) for values in (fidelity.nll, fidelity.reference_nll, fidelity.kl)
    )
    return {
        "tokens": kl.size,
        "perplexity": float(np.exp(nll.mean())),
        "reference_perplexity": float(np.exp(reference_nll.mean())),
        "kl_mean": float(kl.mean()),
        "kl_median": float(np.median(kl)),
        "kl_p99": float(np.percentile(kl, 99)),
        "top1": float(fidelity.same_top.mean()),
    }


def logits_of(comparison: ModelComparison, tokens: list[int], outputs: list[bool]) -> Any:
    """The model's logits of a text in pieces, as the comparison itself reads it."""
    context, pieces = comparison.readers[1].context, []
    context.clear()
    for first in range(0, len(tokens), CHUNK):
        piece = slice(first, first + CHUNK)
        pieces.append(context.decode([Segment(0, first, tokens[piece], outputs[piece])]).copy())
    return np.concatenate(pieces)


def against_transformers(answers: int) -> dict[str, dict[str, Figures]]:
    """Both on the first answers of every persona; llama.cpp and torch never at the same time."""
    reference = kit_base("F16")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "Q4_0-as-F16.gguf"
        merge_lora(kit_base("Q4_0"), [], model, "F16", verify=False)
        with ModelComparison(reference, model) as comparison:
            texts = [
                text
                for conversation in held_out(PERSONAS, answers)
                for text in reply_texts(comparison.reference, conversation.messages)
            ]
            ours = concatenate([comparison.compare(text) for text in texts])
        theirs = by_torch(reference, model, texts)
    return {"Q4_0 as F16": {"transformers": figures(theirs), "charprobe": figures(ours)}}


def by_torch(reference: Path, model: Path, texts: list[TokenizedText]) -> Fidelity:
    """The figures by transformers in float32 and torch's own functions."""
    import torch
    from torch.nn.functional import kl_div, nll_loss
    from transformers import AutoModelForCausalLM

    sides = [
        AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        for path in (reference, model)
    ]
    results = []
    for text in texts:
        ids = torch.tensor([text.tokens])
        rows = torch.tensor([i - 1 for i, counts in enumerate(text.scored) if counts])
        with torch.no_grad():
            log_p, log_q = (
                torch.log_softmax(side(ids).logits[0, rows].double(), -1) for side in sides
            )
        kl = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        nll, reference_nll = (
            nll_loss(log, ids[0, rows + 1], reduction="none") for log in (log_q, log_p)
        )
        same = log_p.argmax(-1) == log_q.argmax(-1)
        numbers = (values.float().numpy() for values in (nll, reference_nll, kl))
        results.append(Fidelity(*numbers, same.numpy()))
    return concatenate(results)


def left_of_adapters(quants: list[str]) -> dict[str, dict[str, Figures]]:
    """Of the one that teaches to use tools, and of a persona's merged after it."""
    tool_use, persona = (kit.kit_folder() / name for name in (kit.TOOL_USE, f"{PERSONA}-full.gguf"))
    published = kit.embedded_base()

    def character(quant: str) -> Path:
        name = f"{EMBEDDED}-full-{PERSONA}"
        return prepare_model(name, published, [tool_use, persona], quant)

    return {
        "tool use": left_of(tool_use, published, kit_base, quants),
        PERSONA: left_of(persona, kit_base("F16"), character, quants),
    }


def left_of(
    adapter: Path, base: Path, file_of: Callable[[str], Path], quants: list[str]
) -> dict[str, Figures]:
    """Per type, over the matrices that the adapter changes by D = merged - base.

    ``kept``: <stored - base, D> / <D, D>, 1 where all of D is left on average. ``error``:
    |stored - merged| / |D|. ``bits`` per weight of the file.
    """
    names = list(read_adapter(adapter, architecture_of_gguf(base)).changes)
    before, merged = matrices(base), matrices(file_of("F16"))
    results = {}
    for quant in quants:
        stored, sums = matrices(file_of(quant)), np.zeros(3)
        for name in names:
            change = merged(name) - before(name)
            error = stored(name) - merged(name)
            sums += [(change * (change + error)).sum(), (error**2).sum(), (change**2).sum()]
        results[quant] = {
            "kept": sums[0] / sums[2],
            "error": float(np.sqrt(sums[1] / sums[2])),
            "bits": weight_summary(file_of(quant)).bits_per_weight,
        }
    return results


def matrices(path: Path) -> Callable[[str], Any]:
    """A GGUF file's matrices by name, as float64."""
    tensors = open_model(path).tensors
    return lambda name: tensors[name].rows(0, tensors[name].shape[0]).astype(np.float64)


def print_tables(results: dict[str, dict[str, Figures]]) -> None:
    """A table per model: the other side, ours, the difference."""
    for name, sides in results.items():
        other = next(iter(sides))
        click.echo(f"{name}, {sides['charprobe']['tokens']} tokens")
        head = ("", other, "charprobe", "difference", "rounded" if "rounded" in sides else "")
        click.echo("  {:21}{:>13}{:>13}{:>12}{:>11}".format(*head))
        for figure in FIGURES:
            theirs, ours = sides[other][figure], sides["charprobe"][figure]
            off = f"{ours / theirs - 1:+.2%}" if theirs else ""
            rounded = sides.get("rounded", {}).get(figure)
            last = "" if rounded is None else f"{rounded:.6f}"
            click.echo(f"  {figure:21}{theirs:13.6f}{ours:13.6f}{off:>12}{last:>11}")


@click.command()
@click.option(
    "--part",
    type=click.Choice(["all", "definitions", "transformers", "steps", *STUDIES]),
    default="all",
    show_default=True,
    help="all is definitions and transformers.",
)
@click.option("--llama-perplexity", "tool", type=click.Path(path_type=Path, exists=True))
@click.option("--quant", default="Q8_0,Q4_0", show_default=True, help="Types for definitions.")
@click.option("--chunks", default=8, show_default=True, type=click.IntRange(1))
@click.option("--answers", default=2, show_default=True, help="Of each persona, for transformers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    part: str, tool: Path | None, quant: str, chunks: int, answers: int, as_json: bool
) -> None:
    """Measure the parts named."""
    if part in STUDIES:
        arguments = ["quant-study", "--persona", "all", *STUDIES[part].split()]
        charprobe_lite([*arguments, *(["--json"] if as_json else [])])
        return
    if part == "steps":
        left = left_of_adapters(["Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0"])
        line = "{:9}{:7}{bits:.2f} bits, kept {kept:.2f}, error {error:.2f}"
        for adapter, types in left.items():
            for name, figures in types.items():
                click.echo(line.format(adapter, name, **figures), err=as_json)
        if as_json:
            click.echo(json.dumps({"steps": left}))
        return
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "transformers": partial(against_transformers, answers)
    }
    if tool:
        parts["definitions"] = partial(definitions, tool, quant.split(","), chunks)
    elif part != "transformers":
        click.echo("definitions: skipped; give --llama-perplexity PATH", err=True)
    parts_run = {name: run_part() for name, run_part in parts.items() if part in ("all", name)}
    found = ratios(parts_run, skipped=part in ("all", "definitions") and not tool)
    if as_json:
        click.echo(json.dumps({**parts_run, "ratios": found}, default=asdict))
        return
    for results in parts_run.values():
        print_tables(results)
    click.echo("\n".join(lines(found)))


def ratios(parts: dict[str, dict[str, dict[str, Figures]]], skipped: bool) -> list[Ratio]:
    """Our figures over the other side's; nothing in them is timed, so one value each."""
    found = []
    for name, sides in (item for results in parts.values() for item in results.items()):
        other = next(iter(sides))
        for figure in ("perplexity", "kl_mean", "top1"):
            value = sides["charprobe"][figure] / sides[other][figure]
            found.append(Ratio(f"{figure} of {name}", PEERS.get(other, other), [value]))
        if "rounded" in sides:
            value = sides["rounded"]["kl_mean"] / sides[other]["kl_mean"]
            found.append(Ratio(f"kl_mean of {name}, rounded like the tool", PEERS[other], [value]))
    if skipped:
        peer, missing = PEERS["llama.cpp"], "needs --llama-perplexity PATH; see llama_tools.sh"
        found.append(Ratio("perplexity and KL divergence", peer, missing=missing))
    return found


if __name__ == "__main__":
    main()
