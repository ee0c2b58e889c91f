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
MAX_DEPTH, MAX_NODES = 100, 1_000_000
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
    """The value of a YAML text. Raises yaml.YAMLError, ValueError, RecursionError.

    ValueError for one that nests deeper than MAX_DEPTH, or would be more than MAX_NODES with its
    aliases written out: whoever walks through such a value never ends.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: Any, known: dict[int, int], depth: int = 0) -> int:
    """The nodes of a value with its aliases written out."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nests deeper than {MAX_DEPTH}")
    if known.get(id(node)) == 0:
        raise ValueError("an alias stands for a value that contains it")
    if id(node) not in known:
        known[id(node)] = 0  # until it is counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count(each, known, depth + 1) for each in nodes)
    if known[id(node)] > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES} values, with its aliases written out")
    return known[id(node)]
