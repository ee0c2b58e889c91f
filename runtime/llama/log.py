"""llama.cpp's log, kept out of the terminal; its last error explains a refusal."""

import ctypes
import logging
from collections import deque

from charprobe_lite.models.errors import BadInput, printable
from charprobe_lite.runtime.llama.binding import llama

WARNING, ERROR = 3, 4  # ggml_log_level; 5 continues a line, mostly with dots
LOGGER = logging.getLogger(__name__)
_lines: deque[str] = deque(maxlen=50)


def capture() -> None:
    """Collect warnings and errors of the process's llama.cpp from here on; drops earlier ones."""
    _lines.clear()
    llama.llama_log_set(_receive, ctypes.c_void_p(0))


def refusal(message: str, fix: str = "") -> BadInput:
    """The error after llama.cpp refused: the message, its last line (of an error), the fix."""
    errors = [line for line in _lines if "error" in line.casefold()]
    reason = (errors or list(_lines) or ["no reason given"])[-1]
    return BadInput(f"{message}: {reason}{fix and '; ' + fix}")


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _receive(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and LOGGER.isEnabledFor(logging.DEBUG):  # a model's header is hundreds of lines
        LOGGER.debug("llama.cpp: %s", printable(line))
    if level in (WARNING, ERROR) and line:
        _lines.append(line)
