"""The protocols of a study: one module each, with a `PROTOCOL`.

A new protocol is a file here and its name in `PROTOCOLS` of models/catalogue.py.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from charprobe_lite.models.catalogue import PROTOCOLS
from charprobe_lite.models.errors import require_known

if TYPE_CHECKING:
    from charprobe_lite.eval.protocols.protocol import Protocol


@cache
def load_protocol(name: str) -> Protocol:
    """The protocol of that name, one of `PROTOCOLS`. Raises BadInput for another."""
    require_known("--protocol", name, PROTOCOLS)
    return cast("Protocol", import_module(f"{__name__}.{name}").PROTOCOL)
