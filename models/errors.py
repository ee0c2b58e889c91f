"""The one exception for input that a user can fix, and how its message is spelled."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Literal

# with the colon behind it, or the space before its value: not that before a word of the sentence
OPTION = re.compile(
    r"(?<![\w-])--(?P<name>[a-z][a-z0-9-]*(?:\.\w+)*)"
    r"(?P<end>:| (?=[^\s-]|-\d)(?!(?:or|and|for|to|is|in|with|at)\b))?"
)


class BadInput(Exception):
    """Input that cannot be used; the message is one line: file, field and fix. Exit status 2."""


def printable(text: str) -> str:
    """Text from an untrusted file in one line, without escape sequences that a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def first_problem(error: Exception, option: bool = False, fields: Sequence[str] = ()) -> str:
    """The first problem of a pydantic, JSON or native error as one line with its field.

    With ``option`` the field is written as the command line spells it. ``fields`` are the names
    from which the nearest one is suggested for a field that is unknown.
    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return printable(" ".join(str(error).split())[:300])
    problem = error.errors(include_url=False)[0]
    message, (name, *rest) = problem["msg"], [str(part) for part in problem["loc"]] or [""]
    if problem["type"] == "extra_forbidden" and (option or fields):
        near = None if rest else nearest(name, fields)
        fix = f"; did you mean {_option(near) if option else near}?" if near else ""
        message = f"unknown{fix}"
    if option:
        return f"{'.'.join([_option(name), *rest])}: {message}" if name else message
    return f"field {'.'.join([name or 'document', *rest])}: {message}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that a misspelled one is most like; None when none is close."""
    spelled = {each.casefold(): each for each in names}
    return next((spelled[near] for near in get_close_matches(name.casefold(), spelled, 1)), None)


def suggestion(name: str, names: Sequence[str]) -> str:
    """What to write in place of an unknown name: the nearest name, or one of all."""
    near = nearest(name, names)
    return f"did you mean {near}?" if near else f"choose from {', '.join(names)}"


def require_known(option: str, name: str, names: Iterable[str]) -> None:
    """Raises BadInput with a suggestion when an option's name is none of ``names``."""
    if name not in (known := [*names]):
        raise BadInput(f"{option} {name}: unknown; {suggestion(name, known)}")


def require_least(**numbers: tuple[int | None, int]) -> None:
    """Raises BadInput for an option that is below its least value: ``option=(value, least)``.

    None is the option's default.
    """
    for name, (value, least) in numbers.items():
        if value is not None and (type(value) is not int or value < least):
            raise BadInput(f"{_option(name)} {value!r}: give a whole number from {least}")


@contextmanager
def bad_input(place: object, *kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of these kinds again as BadInput: the place, then their first problem."""
    try:
        yield
    except kinds as error:
        problem = str(error) if isinstance(error, BadInput) else first_problem(error)
        raise BadInput(f"{place}: {problem}") from None


@contextmanager
def spelled(style: Literal["key", "argument"], place: str | None = None) -> Iterator[None]:
    """Raise BadInput again with every ``--some-option`` of its message in another spelling.

    ``key`` writes ``some_option:`` as in a study file, ``argument`` ``some_option=`` as in Python,
    without a space before the value. ``place`` begins the message.
    """
    try:
        yield
    except BadInput as error:
        ends = {":": ":", " ": ": ", None: ":"}
        if style == "argument":
            ends |= {" ": "=", None: "="}
        message = OPTION.sub(
            lambda option: option["name"].replace("-", "_") + ends[option["end"]], str(error)
        )
        raise BadInput(f"{place}: {message}" if place else message) from None


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
