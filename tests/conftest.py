"""Real components for every test: the embedded base in llama.cpp, the kit, the classifier."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.llama_cpp_peer import spare_amx
from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models import kit
from charprobe_lite.runtime.engine import Engine
from tests.pages import browser, opened, report, study  # noqa: F401 - fixtures of several files

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ValidJson = Callable[[Any, str], None]
SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"
# a shell starts background jobs with interrupts ignored, which their children would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
spare_amx()
RUN = [sys.executable, "-c", "from charprobe_lite.eval.cli.main import main; main()"]


SLOW = {"charprobe", "engine", "merged_base", "base_gguf", "browser", "checkpoints", "converted"}
"""Fixtures that start processes, models or a browser: `make quick` leaves their tests out."""
SLOW_FILES = {
    *("test_classifier_refusals.py", "test_docs.py", "test_eval.py", "test_extending.py"),
    *("test_figures.py", "test_inspect_tasks.py", "test_ngrams.py", "test_quant_figures.py"),
    *("test_quant_study.py", "test_ray.py", "test_recorded_study.py", "test_training.py"),
    "test_technique_training.py",
}


LONG_FILES = ("test_kit_recipe.py", "test_convert.py", "test_train_own.py", "test_examples.py")
"""They begin first: the last one of several processes would run them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        if item.path.name in SLOW_FILES or SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the test session's own, also for the processes it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARPROBE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def merged_base(cache: Path) -> Path:
    """The kit's base: tool use merged in."""
    return kit_base()


@pytest.fixture(scope="session")
def base_gguf() -> Path:
    return kit.embedded_base()


@pytest.fixture
def engine(merged_base: Path) -> Iterator[Engine]:
    with Engine(merged_base, parallel=4, context=1024) as engine:
        yield engine


@pytest.fixture
def charprobe(cache: Path, tmp_path: Path) -> Command:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RUN, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def valid_json() -> ValidJson:
    """Fails for a document that does not fit the schema of that name in docs/schemas."""

    def check(document: Any, name: str) -> None:
        schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
        jsonschema.Draft202012Validator(schema).validate(document)

    return check
