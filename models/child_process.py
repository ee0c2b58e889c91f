"""Work in a child process: torch stays out of this one, and the memory measured is the work's."""

import subprocess
import sys
from pathlib import Path

from charprobe_lite.models.errors import BadInput

REFUSED = 2
"""Exit status after a BadInput, whose text is the last line of stderr."""


def child_command(module: str, *arguments: str | Path) -> list[str]:
    """The command that runs ``charprobe_lite.MODULE.main()`` in a new interpreter."""
    code = (
        "import sys\nfrom charprobe_lite.models.errors import BadInput\n"
        f"from charprobe_lite.{module} import main\n"
        "try:\n    main()\nexcept BadInput as error:\n"
        f"    print(error, file=sys.stderr)\n    sys.exit({REFUSED})"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


def run_main(module: str, *arguments: str | Path) -> bytes:
    """stdout of ``charprobe_lite.MODULE.main()`` in a new interpreter (``convert.verify``).

    A BadInput there is raised here again, as is the last line of stderr of any other failure.
    """
    process = subprocess.run(child_command(module, *arguments), capture_output=True, check=False)
    if process.returncode:
        lines = process.stderr.decode("utf-8", "replace").strip().splitlines() or ["it was killed"]
        raise BadInput(lines[-1])
    return process.stdout
