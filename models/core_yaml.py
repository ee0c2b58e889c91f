"""YAML 1.2's core schema: what is no null, true, false or number is text.

PyYAML reads YAML 1.1, in which 14:30 is 870, 0412 is 266, ``no`` is false and 2025-03-14 a date.
Source: https://yaml.org/spec/1.2.2/#103-core-schema. ``<<`` still merges, as many files expect.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}
"""Plain scalars by their type; the first that fits."""
BASES = {"0o": 8, "0x": 16}
MOST_DIGITS = 4000  # Python refuses longer ones with words of its own


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema's scalars, without duplicate keys."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own declaration)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ. Raises yaml.constructor.ConstructorError."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == f"{TAG}merge":
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                problem = f"key {str(name)[:60]!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name) if isinstance(name, Hashable) else None
        return super().construct_mapping(node, deep)

    def read_int(self, node: Any) -> int:
        """A number in the base that its prefix says, decimal without one."""
        text = self.construct_scalar(node)
        if len(text) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(text)} digits", node.start_mark
            )
        return int(text, BASES.get(text[:2], 10))


for _type, _pattern in SCALARS.items():
    _Loader.add_implicit_resolver(f"{TAG}{_type}", re.compile(rf"(?:{_pattern})\Z"), None)
_Loader.add_constructor(f"{TAG}int", _Loader.read_int)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError, ValueError, RecursionError."""
    return yaml.load(text, Loader=_Loader)
