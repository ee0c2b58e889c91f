"""The process that renders other people's chat templates."""

from typing import Any

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.limited_child import answer_requests

MEMORY = 256 * 1024**2
MAX_OUTPUT = 4_000_000  # characters


def main() -> None:
    """Answer requests until there are none."""
    answer_requests(_render, MEMORY)


def _render(**request: Any) -> dict[str, str]:
    text = render_chat(**request)
    if len(text) > MAX_OUTPUT:
        return {"error": f"chat template: writes {len(text)} characters; at most {MAX_OUTPUT}"}
    return {"text": text}
