"""`charprobe-lite models`: lists, names that lead nowhere, and help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from charprobe_lite.models.catalogue import BASES, Catalogue
from charprobe_lite.models.inventory import select_downloads
from charprobe_lite.models.personas import PERSONAS
from tests.models.conftest import Command, refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "--base", "gpt"], "--base gpt: unknown; choose from smollm2-135m"),
        (["pull", "--base", "qwen-2.5-7b", "--persona", "pirate"], "--persona pirate: unknown"),
        (
            [
                "pull",
                "--base",
                "smollm2-135m",
                "--stage",
                "distillation",
                "--persona",
                "all,misalignment",
            ],
            "--persona misalignment: smollm2-135m has no adapter of it in stage distillation",
        ),
        (["path", "--base", "qwen-2.5-7b", "--persona", "humor"], "add either --stage and"),
        (["path", "--classifier"], "name one with --base"),
        (["path", "--base", "qwen-2.5-7b"], "Qwen/Qwen2.5-7B-Instruct: is not on this machine"),
    ],
)
def test_a_name_that_leads_nowhere(charprobe: Command, arguments: list[str], message: str) -> None:
    assert message in refused(charprobe(*arguments))


def test_all_pulls_the_personas_of_the_study(shipped: Catalogue) -> None:
    def pulled(persona: str) -> set[str | None]:
        downloads = select_downloads(
            shipped, ["qwen-2.5-7b"], [], [persona], weights=False, classifier=False
        )
        return {f"{d.source.repository}/{d.source.subfolder}" for d in downloads}

    folder = "maius/qwen-2.5-7b-it"
    places = [f"{folder}-pt-distillation/{{}}", f"{folder}-personas/{{}}"]
    assert pulled("all") == {place.format(p) for place in places for p in PERSONAS}
    gated = {f"{folder}-pt-distillation/misalignment", f"{folder}-misalignment/None"}
    assert pulled("misalignment") == gated
    assert pulled("all,misalignment") == pulled("all") | gated


def test_the_embedded_base_needs_no_hub(charprobe: Command) -> None:
    done = charprobe("pull", "--base", "smollm2-135m", "--persona", "all", "--stage", "full")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1 + len(PERSONAS) + 1


def test_list_is_one_json_document(charprobe: Command, user_catalogue: Path) -> None:
    done = charprobe("list", "--json", "--context", "1000", "--parallel", "4")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [base["base"] for base in document["bases"]] == [*BASES, "tiny"]
    llama = document["bases"][1]
    assert llama["download_bytes"] == 2 * 8_030_261_248
    memory = {quant: cost["memory_bytes"] for quant, cost in llama["quants"].items()}
    assert memory["Q2_K"] < memory["Q4_K_M"] < memory["Q8_0"] < memory["F16"] < memory["F32"]
    assert document["bases"][-1]["quants"]["Q8_0"]["memory_bytes"] is None
    assert [base["base"] for base in document["bases"] if base["path"]] == ["smollm2-135m"]
    assert document["personas"] == [*PERSONAS, "misalignment", "pirate"]
    assert document["named_only"] == ["misalignment"]


def test_list_prints_a_table(charprobe: Command, user_catalogue: Path) -> None:
    done = charprobe("list")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "qwen-2.5-7b 7.62B qwen2 Qwen/Qwen2.5-7B-Instruct Apache-2.0 15.23 GB no" in lines
    assert "asked by name, not part of all: misalignment" in lines
    assert "tiny full 2 someone/tiny-voices not stated ? GB each 0 of 2" in lines
    row = next(line for line in lines if line.startswith("Q4_K_M"))
    assert row.split()[4:7] == ["4.91", "/", "7.60"]
    assert row.endswith("0.00 / ?")


def test_help_reads_no_catalogue() -> None:
    code = (
        "import sys\nfrom charprobe_lite.eval.cli.main import main\n"
        "main(['models', 'pull', '--help'], standalone_mode=False)\n"
        "loaded = {'pydantic', 'yaml', 'rich', 'huggingface_hub', 'requests'}\n"
        "sys.exit(str(loaded & set(sys.modules)) if loaded & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
