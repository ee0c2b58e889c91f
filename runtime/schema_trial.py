"""Tools' JSON schemas of other people, tried in a process of their own before this one takes them.

A few words of a schema can ask llguidance for minutes or gigabytes: ``multipleOf`` a large number,
``allOf`` with a dozen patterns. Its own limits do not count all of that.
"""

from __future__ import annotations

import atexit
import json
from functools import cache, lru_cache

from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.limited_worker import LimitedWorker

SECONDS = 5.0
FIX = "; leave out what is hard to check, such as multipleOf or allOf with patterns"


@lru_cache(maxsize=1024)
def try_schema(tool: str, parameters: str) -> None:
    """Raises BadInput for a schema, JSON text, that has no grammar or a costly one."""
    if parameters in _shipped():
        return
    _worker().ask(f"tool {tool}: its schema", tool=tool, parameters=parameters)


@cache
def _shipped() -> frozenset[str]:
    return frozenset(json.dumps(tool.parameters) for tool in load_tools())


@cache
def _worker() -> LimitedWorker:
    worker = LimitedWorker("runtime.schema_child", SECONDS, FIX)
    atexit.register(worker.close)
    return worker
