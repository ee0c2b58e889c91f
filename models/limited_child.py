"""A process that answers requests with little memory: a request a line, a reply a line.

Whoever started it ends it when a reply takes too long (`runtime.limited_worker`).
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from charprobe_lite.models.errors import BadInput


def answer_requests(answer: Callable[..., dict[str, Any]], memory: int) -> None:
    """Reply to requests, the arguments of ``answer``, until there are none.

    ``memory`` is in bytes, on top of what the process has when it starts. A BadInput is a reply
    with an ``error``.
    """
    _limit_memory(memory)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            reply = answer(**json.loads(line))
        except BadInput as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


def _limit_memory(memory: int) -> None:
    """Where the system has such a limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
