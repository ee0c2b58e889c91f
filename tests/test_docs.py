"""The documentation: links resolve, the site builds, reference and schemas match the program."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import charprobe_lite as cp
from charprobe_lite.eval.cli.reference import reference
from tests.conftest import Command, ValidJson

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[str]:
    return (target for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 180
    linked = {link.removeprefix("docs/") for link in links(ROOT / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= linked


def test_every_picture_and_schema_is_used() -> None:
    used = {link.removeprefix("docs/") for page in PAGES for link in links(page)}
    files = {
        str(file.relative_to(DOCS))
        for kind in ("images", "schemas")
        for file in (DOCS / kind).iterdir()
    }
    assert files <= used


def test_the_command_reference_is_current() -> None:
    command = "python -m charprobe_lite.eval.cli.reference > docs/commands.md"
    assert (DOCS / "commands.md").read_text("utf-8") == reference(), f"out of date; run {command}"


def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("material")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {page.stem for page in site.glob("*.html")} - {"404"}
    assert built == {page.stem for page in DOCS.glob("*.md")}
    for page in site.glob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert not loaded, page.name


@pytest.mark.parametrize("file", sorted((DOCS / "schemas").glob("*.json")), ids=lambda f: f.stem)
def test_a_schema_is_one_and_describes_what_it_holds(file: Path) -> None:
    schema = json.loads(file.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["models", "list"], "models-list"),
        (["models", "verify"], "models-verify"),
        (["doctor"], "doctor"),
        (["eval", "--persona", "humor", "--dry-run"], "eval-dry-run"),
        (["study", "plan", "grid.yaml"], "study-plan"),
        (["study", "status", "grid.yaml"], "study-status"),
        (["score", "texts.jsonl"], "score"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_documents_of_commands_without_a_model(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson, arguments: list[str], schema: str
) -> None:
    (tmp_path / "grid.yaml").write_text(
        "persona: [humor, remorse]\nlimit: {prompts: 2, scenarios: 1}\n"
    )
    rows = [
        {
            "trait_true": true,
            "trait_pred": predicted,
            "item": f"prompt-{number}",
            "base": "b",
            "hand_classification": human,
        }
        for number, (true, predicted, human) in enumerate(
            [
                ("humor", "humor", "present"),
                ("humor", "remorse", "absent"),
                ("remorse", "remorse", "present"),
                ("remorse", "remorse", "absent"),
            ]
        )
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = charprobe(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    valid_json(json.loads(done.stdout), schema)


def test_documents_of_conversions(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    from tests.checkpoints import make_adapter, make_checkpoint

    base = make_checkpoint("llama3", tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    both = ("--base", base, "--adapter", adapter)
    for command, arguments in (("adapter", ()), ("merge", ("--quant", "F32"))):
        output = tmp_path / f"{command}.gguf"
        done = charprobe("convert", command, *both, *arguments, "-o", output, "--json")
        assert done.returncode == 0, done.stderr
        valid_json(json.loads(done.stdout), f"convert-{command}")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "python.md"], ids=lambda page: page.name
)
def test_python_examples_call_what_exists(page: Path) -> None:
    code = "\n".join(PYTHON.findall(page.read_text("utf-8")))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    assert sum(name.startswith("cp.") for name in names) >= 5
    for call, name in zip(calls, names, strict=True):
        if name.startswith("cp.") and "(" not in name:
            function = cp
            for part in name.split(".")[1:]:
                function = getattr(function, part)
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(function).bind_partial(*call.args, **keywords)


def test_python_examples_run(cache: Path, tmp_path: Path) -> None:
    """All but the study, which tests of the package run, and the conversion of a checkpoint."""
    blocks = PYTHON.findall((DOCS / "python.md").read_text("utf-8"))
    code = [block for block in blocks if "run_study" not in block and "merge_lora" not in block]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(code) == 4
    assert done.returncode == 0, done.stderr
    assert "sarcasm" in done.stdout
