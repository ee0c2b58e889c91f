"""Types of options: names, sizes, limits and parts of a study."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

FILE = click.Path(path_type=Path)


class Name(click.ParamType[str]):
    """One name that the shell completes; the command checks it."""

    name = "name"

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class NameList(Name):
    """Several names; comma-separated, repeatable, ``all`` for every one."""

    name = "name[,name]"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """The names that begin like the text after the last comma."""
        head, comma, last = incomplete.rpartition(",")
        names = [*self.names, "all"]
        return [CompletionItem(head + comma + name) for name in names if name.startswith(last)]


class Shard(click.ParamType[tuple[int, int]]):
    """The part of the rollouts that this machine runs: ``N/OF``, with N from 1 to OF."""

    name = "n/of"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        number, slash, of = str(value).partition("/")
        is_part = slash and number.isdecimal() and of.isdecimal() and len(value) < 12
        if not is_part or not 1 <= int(number) <= int(of):
            self.fail(f"{value!r}: give N/OF, such as 1/4", param, ctx)
        return int(number), int(of)


class Parallel(click.ParamType[int | str]):
    """Rollouts at once: a number from 1 to 64, or ``auto``."""

    name = "n|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "auto":
            return "auto"
        is_number = str(value).isdecimal() and len(str(value)) < 4
        if not is_number or not 1 <= int(value) <= 64:
            self.fail(f"{value!r}: give a number from 1 to 64, or auto", param, ctx)
        return int(value)


class Budget(click.ParamType[int | str]):
    """Memory for a study: a size such as ``8GB`` or ``500MB``, or ``machine``."""

    name = "size|machine"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "machine":
            return "machine"
        size = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(MB|GB)", str(value), re.IGNORECASE)
        if not size:
            self.fail(f"{value!r}: give a size such as 8GB or 500MB, or machine", param, ctx)
        return round(float(size[1]) * {"MB": 1e6, "GB": 1e9}[size[2].upper()])


class Limit(click.ParamType[tuple[int | None, int | None]]):
    """Prompts and scenarios per cell: ``N``, ``all``, or ``PROMPTS,SCENARIOS``."""

    name = "n[,n]|all"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | None, int | None]:
        """(prompts, scenarios); None stands for all."""
        parts = str(value).split(",")
        if len(parts) not in (1, 2):
            self.fail(f"{value!r}: give N, all, or PROMPTS,SCENARIOS", param, ctx)
        numbers = [self._number(part.strip(), param, ctx) for part in parts]
        return numbers[0], numbers[-1]

    def _number(self, text: str, param: Any, ctx: Any) -> int | None:
        if text == "all":
            return None
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{text!r}: give a number of at least 1, or all", param, ctx)
        return int(text)


class Count(click.ParamType[int | None]):
    """A number of texts: ``N``, ``all`` (None) or ``none`` (0)."""

    name = "n|all|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        if value in ("all", "none"):
            return None if value == "all" else 0
        if not str(value).isdecimal():
            self.fail(f"{value!r}: give a number, all or none", param, ctx)
        return int(value)
