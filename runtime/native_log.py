"""llama.cpp's log, kept out of the terminal; its last error explains a refused file."""

from __future__ import annotations

import ctypes
from collections import deque

import llama_cpp as llama

WARNING, ERROR = 3, 4  # ggml_log_level; 5 continues a line, mostly with dots


class NativeLog:
    """Collects llama.cpp's last warnings and errors."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=50)
        self._callback = llama.llama_log_callback(self._receive)

    def capture(self) -> None:
        """Send llama.cpp's log here, for the whole process."""
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def clear(self) -> None:
        """Forget what was logged."""
        self._lines.clear()

    def last_line(self) -> str:
        """The most telling line: the last that speaks of an error, else the last."""
        telling = [line for line in self._lines if "error" in line.casefold()]
        return (telling or list(self._lines) or ["no reason given"])[-1]

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level in (WARNING, ERROR) and line:
            self._lines.append(line)


native_log = NativeLog()
