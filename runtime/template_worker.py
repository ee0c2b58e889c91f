"""Chat templates of other people's models, rendered in a process of their own.

jinja2's sandbox keeps a template from the machine, not from its time and memory: a loop in a loop
runs for ever, a string joined with itself fills the memory. The process has limits for both.
"""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.errors import BadInput

SECONDS = 2.0
START_SECONDS = 30.0
"""The process starts in a tenth of a second; on a machine that swaps, in more."""
KNOWN = {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"}
"""sha256 of templates that need no process: that of the embedded base."""


class TemplateWorker:
    """Renders chat templates; a context manager. The process starts with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> TemplateWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    stream.close()
            self._process = None

    def render(self, template: str, messages: Sequence[dict[str, str]], **options: Any) -> str:
        """As `render_chat`, with its options.

        Raises BadInput also for a template that takes too long or too much.
        """
        if hashlib.sha256(template.encode("utf-8", "replace")).hexdigest() in KNOWN:
            return render_chat(template, messages, **options)
        reply = self._ask(json.dumps({"template": template, "messages": list(messages), **options}))
        if "error" in reply:
            raise BadInput(reply["error"])
        return str(reply["text"])

    def _ask(self, request: str) -> dict[str, Any]:
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            process.stdin.write(f"{request}\n")
            process.stdin.flush()
            reply: dict[str, Any] = json.loads(self._replies.get(timeout=SECONDS))
        except queue.Empty:
            self.close()
            raise BadInput(f"chat template: takes more than {SECONDS:g} s") from None
        except (OSError, ValueError):  # it was killed, or said its last
            self.close()
            raise BadInput("chat template: ended the process that renders it") from None
        return reply

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "charprobe_lite.models.template_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._replies = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(self._process, self._replies), daemon=True)
        reader.start()
        self._replies.get(timeout=START_SECONDS)  # it is ready
        return self._process


def _read(process: subprocess.Popen[str], replies: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        replies.put(line)
    replies.put("")  # no more will come: not a reply
