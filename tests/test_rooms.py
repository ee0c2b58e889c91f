"""The house's one rule: arrows point down only, and torch stays in `convert`."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
API = {file.stem for file in (ROOT / "charprobe_lite").glob("*.py")}
MAY_IMPORT = {
    "charprobe_lite": {"eval", "convert", "runtime", "models", *API},
    "eval": {"eval", "convert", "runtime", "models"},
    "convert": {"convert", "runtime", "models"},
    "runtime": {"runtime", "models"},
    "models": {"models"},
}
EVAL = "charprobe_lite.eval."
HEAVY = {"torch", "transformers", "peft", "optimum", "onnx"}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(ast.parse(file.read_text())):
            if name.startswith("charprobe_lite."):
                assert name.split(".")[1] in MAY_IMPORT[room], f"{file}: {name}"
            if room != "convert":
                assert name.split(".")[0] not in HEAVY, f"{file}: {name}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "charprobe_lite" else ("charprobe_lite", *parts)
    return ".".join(parts).removesuffix(".__init__")


def test_there_is_no_circle_of_modules_nor_of_the_folders_of_eval() -> None:
    files = [file for room in MAY_IMPORT for file in (ROOT / room).rglob("*.py")]
    modules = {module_name(file): imports(ast.parse(file.read_text())) for file in files}
    graph = {name: (names & modules.keys()) - {name} for name, names in modules.items()}
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    # an import of a module names its package too
    TopologicalSorter({name: names - packages for name, names in graph.items()}).prepare()
    folders: dict[str, set[str]] = {}
    for name, names in graph.items():
        if name.startswith(EVAL):
            folder = name.removeprefix(EVAL).split(".")[0]
            targets = {n.removeprefix(EVAL).split(".")[0] for n in names if n.startswith(EVAL)}
            folders.setdefault(folder, set()).update(targets - {folder})
    TopologicalSorter(folders).prepare()


def test_llama_cpp_is_bound_in_one_place() -> None:
    for room in MAY_IMPORT:
        for file in sorted((ROOT / room).rglob("*.py")):
            modules = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))}
            assert "llama_cpp" not in modules or file.parent == ROOT / "runtime" / "llama", file


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([name, "--help"] for name in ("eval", "quant-study", "score"))],
)
def test_help_loads_neither_engine_nor_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom charprobe_lite.eval.cli.main import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "loaded = {'torch', 'llama_cpp', 'onnxruntime', 'numpy', 'pydantic', 'rich'}\n"
        "sys.exit(str(loaded & set(sys.modules)) if loaded & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
