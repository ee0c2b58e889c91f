"""Work that needs torch, in a process of its own: eval never imports it, and its memory goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from charprobe_lite.models.errors import BadInput


def run_main(module: str, *arguments: str | Path) -> bytes:
    """stdout of ``charprobe_lite.convert.MODULE.main()`` in a new interpreter.

    Raises BadInput with the last line of its stderr when it fails.
    """
    code = f"from charprobe_lite.convert.{module} import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=False
    )
    if found.returncode:
        lines = found.stderr.decode("utf-8", "replace").strip().splitlines() or ["it was killed"]
        raise BadInput(lines[-1])
    return found.stdout
