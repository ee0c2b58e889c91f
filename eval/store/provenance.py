"""What a study was made with: pins must not change within it, notes may."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charprobe_lite.eval.store.connection import Connection
from charprobe_lite.models.errors import BadInput

ASSUMED = {
    "protocol": "lite",
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "bos": "single",
    "seeds": "rollout",
    "tool_role": "user",
    "instrument": "modernbert",
}
"""Pins that came later, with the values of the studies that lack them."""
TECHNIQUES = "techniques"
"""The value that holds the plan of a comparison of techniques, the same in all parts of a study."""
PINNED = (
    *("seed", "temperature", "top_p", "max_tokens", "max_steps", "context", TECHNIQUES),
    *ASSUMED,
)
"""What decides every rollout, next to the hashes and the names on a server."""
SPEC = "asked"
"""The value that holds the study's spec, so that it can be resumed from its file alone."""


class ProvenanceTable(Connection):
    """The table ``provenance``: JSON values by name."""

    def provenance(self) -> dict[str, Any]:
        """What the study was made with."""
        rows = self.select("SELECT name, value FROM provenance")
        return {name: json.loads(value) for name, value in rows}

    def has_rollouts(self) -> bool:
        """Whether the study has begun."""
        return bool(self.select("SELECT EXISTS (SELECT 1 FROM rollouts)")[0][0])

    def pin(self, values: Mapping[str, Any]) -> None:
        """Record what must not change within a study, or check it against what was recorded.

        A study without a rollout yet is bound to nothing. Raises BadInput as `check_pins`.
        """
        pinned = self.check_pins(values)
        self.note({name: value for name, value in values.items() if name not in pinned})

    def check_pins(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the study is bound to. Raises BadInput naming the first value that differs."""
        pinned = {**ASSUMED, **self.provenance()} if self.has_rollouts() else {}
        for name, value in values.items():
            if name in pinned and pinned[name] != value:
                raise BadInput(
                    f"{self.path}: field {name}: the study has {short(pinned[name])}, this run "
                    f"{short(value)}; choose another --study"
                )
        return pinned

    def forget(self, name: str) -> None:
        """Drop a value that no longer holds."""
        with self.transaction():
            self.database.execute("DELETE FROM provenance WHERE name = ?", (name,))

    def note(self, values: Mapping[str, Any]) -> None:
        """Record facts that may change from run to run; the last run's stay."""
        with self.transaction():
            self.database.executemany(
                "INSERT INTO provenance VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [(name, json.dumps(value)) for name, value in values.items()],
            )


def headline_instrument(provenance: Mapping[str, Any]) -> str:
    """What made the labels of a study's headline."""
    return str(provenance.get("instrument", ASSUMED["instrument"]))


def refuse_techniques(path: Path, provenance: Mapping[str, Any]) -> None:
    """Raises BadInput for a study of techniques, whose adapters no spec names."""
    if TECHNIQUES in provenance:
        raise BadInput(
            f"{path}: is a study of techniques; continue it with charprobe-lite techniques run and "
            "its grid file, or name another study"
        )


def is_pinned(name: str) -> bool:
    """Whether a provenance value must be the same for all rollouts of a study."""
    return name in PINNED or name.startswith(("sha256 ", "served "))


def short(value: Any) -> str:
    """A provenance value for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
