"""charprobe-lite: does a trained character survive when the same checkpoint works as an agent?"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

if not Path(__file__).with_name("eval").is_dir():
    # in a checkout the rooms lie at the repository's root, next to this folder
    __path__.append(str(Path(__file__).parent.parent))
