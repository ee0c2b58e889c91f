"""The process that renders other people's chat templates: a request a line, a reply a line.

Its memory is limited, and whoever started it ends it when a render takes too long.
"""

import json
import sys
from contextlib import suppress
from typing import Any

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.errors import BadInput

MEMORY = 256 * 1024**2  # bytes, on top of what the process has when it starts
MAX_OUTPUT = 4_000_000  # characters


def main() -> None:
    """Answer requests until there are none."""
    _limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_reply(json.loads(line))), flush=True)


def _reply(request: dict[str, Any]) -> dict[str, str]:
    try:
        text = render_chat(**request)
    except BadInput as error:
        return {"error": str(error)}
    if len(text) > MAX_OUTPUT:
        return {"error": f"chat template: writes {len(text)} characters; at most {MAX_OUTPUT}"}
    return {"text": text}


def _limit_memory() -> None:
    """Where the system has such a limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


if __name__ == "__main__":
    main()
