"""The training techniques: each file with a function `technique` is one, named like its file."""

import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from charprobe_lite.convert.train.technique import Budget, Corpus, Phase, check_phases
from charprobe_lite.models.errors import BadInput, first_problem, require_known
from charprobe_lite.models.files import expanded
from charprobe_lite.models.kit import sha256_file

FUNCTION = "technique"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Technique:
    """A technique by its ``name``, the ``file`` that it is in, its hash, and its function."""

    name: str
    file: Path
    sha256: str
    function: Callable[[Corpus, str, Budget], object]

    def phases(self, corpus: Corpus, persona: str, budget: Budget) -> list[Phase]:
        """The phases of training, checked.

        Raises BadInput for a function that fails, returns something else, or returns other texts
        when it is called again.
        """
        place = f"technique {self.name}, persona {persona}"
        with _one_line(place, self.file):
            results = [self.function(corpus, persona, budget) for _ in range(2)]
        first, again = (check_phases(place, result) for result in results)
        if first != again:
            raise BadInput(
                f"{place}: gives other texts each time; draw from random.Random(a fixed seed)"
            )
        return first


def technique_names() -> list[str]:
    """The names of the shipped techniques."""
    return [file.name.replace("_", "-") for file in pkgutil.iter_modules(__path__)]


def load_technique(name: str) -> Technique:
    """A shipped technique by name, or one's own from a Python file, whose code runs.

    Raises BadInput for an unknown name, and for a file that cannot be run or has no function
    ``technique`` of three arguments.
    """
    path = expanded(Path(name))
    if path.suffix != ".py":
        require_known("--technique", name, technique_names())
        return _technique(name, FOLDER / f"{name.replace('-', '_')}.py")
    own = path.stem.replace("_", "-")
    if not NAME.fullmatch(own):
        raise BadInput(f"{path}: call the file like my_technique.py, in lower case")
    if own in technique_names() and path.resolve().parent != FOLDER.resolve():
        raise BadInput(f"{path}: the technique {own} is shipped; rename the file")
    return _technique(own, path)


def _technique(name: str, path: Path) -> Technique:
    digest = sha256_file(path)
    spec = importlib.util.spec_from_file_location(f"technique_{path.stem}", path)
    assert spec is not None, "its name ends in .py"
    assert spec.loader is not None, "its name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    with _one_line(path, path):
        spec.loader.exec_module(module)
    return Technique(name, path, digest, _function(path, module))


def _function(path: Path, module: ModuleType) -> Callable[[Corpus, str, Budget], object]:
    function = getattr(module, FUNCTION, None)
    wanted = f"def {FUNCTION}(corpus, persona, budget)"
    if not callable(function):
        raise BadInput(f"{path}: has no function {FUNCTION}; add {wanted}")
    try:
        inspect.signature(function).bind(None, None, None)
    except (TypeError, ValueError):
        raise BadInput(
            f"{path}: {FUNCTION} does not take three arguments; write {wanted}"
        ) from None
    result: Callable[[Corpus, str, Budget], object] = function
    return result


@contextmanager
def _one_line(place: object, file: Path) -> Iterator[None]:
    """Raise an error of a technique's code again as BadInput, with the last line of its file.

    What the code prints goes to stderr, as stdout is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    except (Exception, SystemExit) as error:
        line = f"line {number}: " if (number := _line_of(error, file)) else ""
        problem = first_problem(Exception(*error.args[:1]))
        raise BadInput(f"{place}: {line}{type(error).__name__}: {problem}") from None


def _line_of(error: BaseException, file: Path) -> int | None:
    """The last line of ``file`` that an error came through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames, place = extract_tb(error.__traceback__), os.path.abspath(file)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == place]
    return lines[-1] if lines else None
