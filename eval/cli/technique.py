"""`charprobe-lite train persona --technique`: an adapter by one of the techniques, or one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.convert.train.technique import TOKENS
from charprobe_lite.convert.train.techniques import load_technique
from charprobe_lite.eval.cli.progress import print_result, progress_bar
from charprobe_lite.eval.cli.training import missing_files, summary_line, watched
from charprobe_lite.eval.techniques.bases import technique_base
from charprobe_lite.models.atomic import refuse_full
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.convert.train.technique_training import TrainingBase

PERSONA = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def train_by_technique(as_json: bool, options: dict[str, Any]) -> None:
    """Train, and print the losses and how to evaluate the adapter. Raises BadInput."""
    technique, persona = load_technique(options["technique"]), options["persona"]
    if not persona or not PERSONA.fullmatch(persona):
        raise BadInput(f"--persona {persona or ''}: name the persona that {technique.name} trains")
    name = f"{technique.name}-{persona}-seed{options['train_seed'] or 0}"
    target = options["output"] or Path("runs", "techniques", name)
    refuse_full(target)

    from charprobe_lite.convert.train.technique_training import TechniqueSettings, train_technique

    settings = TechniqueSettings(
        tokens=options["tokens"] or TOKENS,
        rank=options["rank"],
        learning_rate=options["learning_rate"],
        train_seed=options["train_seed"] or 0,
        precision=options["precision"],
    )
    with progress_bar() as progress, missing_files(target):
        base = technique_base(options["base"])
        task = progress.add_task(name, total=None)
        shown = watched(progress, task, name)
        manifest = train_technique(technique, persona, base, settings, target, shown)
    _print_manifest(as_json, manifest, target, base)


def _print_manifest(
    as_json: bool, manifest: dict[str, Any], target: Path, base: TrainingBase
) -> None:
    adapter = target / "adapter.gguf"
    methods = {
        phase["loss"]: {
            "steps": phase["steps"],
            "first_loss": phase["losses"][0],
            "last_loss": phase["losses"][-1],
        }
        for phase in manifest["phases"]
    }
    lines = [summary_line(method, summary) for method, summary in methods.items()]
    tokens, texts = manifest["trained_tokens"], sum(each["texts"] for each in manifest["phases"])
    lines += [
        f"trained tokens: {tokens}, of {texts} texts; adapters kept: "
        f"{len(manifest['checkpoints'])} (checkpoints/epoch-N)",
        f"adapter: {adapter}",
        f"manifest: {target / 'manifest.json'}",
        f"evaluate: charprobe-lite eval --gguf {base.gguf} --adapter {adapter} "
        f"--persona {manifest['persona']}",
    ]
    document = {
        "adapter": str(adapter),
        "base": str(base.gguf),
        "methods": methods,
        "manifest": manifest,
    }
    print_result(as_json, document, lines)
