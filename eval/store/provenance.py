"""What a study records about its inputs: the hashes of the files that its conditions use."""

from __future__ import annotations

from pathlib import Path

from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.personas import DESCRIPTIONS_FILE
from charprobe_lite.models.prompts import SUFFIXES_FILE
from charprobe_lite.models.published_scenarios import sha256_scenarios
from charprobe_lite.models.tools import TOOLS_FILE


def input_hashes(prompts: Path | None, scenarios: Path | None) -> dict[str, str]:
    """sha256 of prompts, scenarios, tools, suffixes and descriptions, by those names.

    A path of None is the shipped file.
    """
    shipped = corpus_hashes()
    return {
        "prompts": sha256_file(prompts) if prompts else shipped["id-prompts.txt"],
        "scenarios": sha256_scenarios(scenarios) if scenarios else shipped["agentic/eval.jsonl"],
        "tools": sha256_file(TOOLS_FILE),
        "suffixes": sha256_file(SUFFIXES_FILE),
        "descriptions": sha256_file(DESCRIPTIONS_FILE),
    }
