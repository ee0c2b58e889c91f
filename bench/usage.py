"""Memory and time of a process and its children, from Linux's /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Bytes and CPU seconds of a process tree.

    ``private`` has no file behind it; ``total`` counts mapped files too, once per process.
    """

    private: int = 0
    total: int = 0
    cpu: float = 0.0
    commands: tuple[str, ...] = ()

    @classmethod
    def read(cls, process: int) -> Usage:
        """The tree under a process now; empty when it has ended.

        The sums of /proc/PID/status: smaps would hold up a process with many pages.
        """
        private = total = ticks = 0
        commands = []
        for number in (process, *_descendants(process)):
            folder = Path(f"/proc/{number}")
            try:
                status = (folder / "status").read_text()
                times = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:  # it ended meanwhile
                continue
            sizes = {
                line.split(":")[0]: 1024 * int(line.split()[1])
                for line in status.splitlines()
                if line.startswith("Rss")
            }
            private += sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
            total += sum(sizes.values())
            ticks += sum(map(int, times[11:15]))  # its own, and of children that have ended
            commands.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
        return cls(private, total, ticks / os.sysconf("SC_CLK_TCK"), tuple(commands))


def _descendants(process: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found
