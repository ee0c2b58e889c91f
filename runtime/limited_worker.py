"""A child process with limits of time and memory, for what other people's texts make a library do.

A chat template can loop for ever and a JSON schema can ask for an automaton of gigabytes: neither
the sandbox nor the library's own limits end that.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from contextlib import suppress
from typing import Any

from charprobe_lite.models.child_process import child_command
from charprobe_lite.models.errors import BadInput

START_SECONDS = 30.0
"""The process starts in a tenth of a second; on a machine that swaps, in more."""


class LimitedWorker:
    """Answers requests in a process that runs ``charprobe_lite.MODULE.main()``; a context manager.

    The process, which calls `models.limited_child.answer_requests`, starts with the first request,
    and again after one that ended it. A reply may take ``seconds``; ``fix`` ends the message for
    one that takes more, or too much memory.
    """

    def __init__(self, module: str, seconds: float, fix: str = "") -> None:
        self._module, self._seconds, self._fix = module, seconds, fix
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._turn = threading.Lock()

    def __enter__(self) -> LimitedWorker:
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
                    with suppress(OSError):  # what it had not read
                        stream.close()
            self._process = None

    def ask(self, subject: str, **request: Any) -> dict[str, Any]:
        """The reply to a request. Raises BadInput, which begins with ``subject`` where the process
        took too long or ended."""
        with self._turn:  # a thread must not get the reply of another
            reply = self._reply(subject, json.dumps(request))
        if "error" in reply:
            raise BadInput(reply["error"])
        return reply

    def _reply(self, subject: str, request: str) -> dict[str, Any]:
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            process.stdin.write(f"{request}\n")
            process.stdin.flush()
            reply: dict[str, Any] = json.loads(self._replies.get(timeout=self._seconds))
        except queue.Empty:
            self.close()
            raise BadInput(f"{subject}: takes more than {self._seconds:g} s{self._fix}") from None
        except (OSError, ValueError):  # it was killed, or said its last
            self.close()
            raise BadInput(f"{subject}: ended the process that tries it{self._fix}") from None
        return reply

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            child_command(self._module),
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
    with suppress(ValueError):  # closed meanwhile
        for line in process.stdout:
            replies.put(line)
    replies.put("")  # no more will come: not a reply
