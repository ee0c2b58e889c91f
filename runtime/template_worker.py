"""Chat templates of other people's models, rendered in a process of their own.

jinja2's sandbox keeps a template from the machine, not from its time and memory: a loop in a loop
runs for ever, a string joined with itself fills the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.runtime.limited_worker import LimitedWorker

SECONDS = 2.0
KNOWN = {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"}
"""sha256 of templates that need no process: that of the embedded base."""


class TemplateWorker(LimitedWorker):
    """Renders chat templates; a context manager. The process starts with the first of them."""

    def __init__(self) -> None:
        super().__init__("models.template_child", SECONDS)

    def __enter__(self) -> TemplateWorker:
        return self

    def render(self, template: str, messages: Sequence[dict[str, str]], **options: Any) -> str:
        """As `render_chat`, with its options.

        Raises BadInput also for a template that takes too long or too much.
        """
        if hashlib.sha256(template.encode("utf-8", "replace")).hexdigest() in KNOWN:
            return render_chat(template, messages, **options)
        request = {"template": template, "messages": list(messages), **options}
        return str(self.ask("chat template", **request)["text"])
