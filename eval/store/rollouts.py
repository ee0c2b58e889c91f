"""The tables of rollouts: cells, rollouts, turns, samples, labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell, RecordedTurn, RolloutKey, Row
from charprobe_lite.eval.store.connection import Connection
from charprobe_lite.eval.store.records import TextKey, Unlabelled
from charprobe_lite.models.call_formats import sound
from charprobe_lite.models.errors import bad_input
from charprobe_lite.models.files import well_formed

if TYPE_CHECKING:
    from charprobe_lite.eval.protocols.outcome import Result

WIDTH = len(fields(Cell))
CELL = ", ".join(field.name for field in fields(Cell))
"""The columns of a cell, in SQL, as many as ``WIDTH``."""
MARKS = ", ".join("?" * WIDTH)


def columns(record: Cell | TextKey) -> tuple[str, ...]:
    """The values of a record in SQL, where '' is what does not apply."""
    return tuple("" if value is None else str(value) for value in astuple(record))


def read_cell(row: Sequence[Any]) -> Cell:
    """The cell in the first columns of a row."""
    *names, seed, kv_type, technique = row[3:WIDTH]
    cell = Cell(*row[:3], *(name or None for name in names))
    train_seed = int(seed) if seed.isdecimal() else None
    return replace(cell, train_seed=train_seed, kv_type=kv_type, technique=technique or None)


def read_key(row: Sequence[Any]) -> RolloutKey:
    """The key in the first columns of a row: cell, persona, item, sample."""
    persona, item, sample = row[WIDTH : WIDTH + 3]
    return RolloutKey(read_cell(row), persona or None, item, sample)


class RolloutTables(Connection):
    """What was recorded of rollouts, and the labels of their texts."""

    def done(self, cell: Cell, persona: str | None) -> set[tuple[str, int]]:
        """(item, sample) of the rollouts that have ended."""
        rows = self.select(
            "SELECT item, sample FROM rollouts JOIN cells ON cells.id = cell_id WHERE "
            f"({CELL}, persona) = ({MARKS}, ?)",
            (*columns(cell), persona or ""),
        )
        return set(rows)

    def add(
        self, cell: Cell, persona: str | None, item: str, sample: int, seed: int, result: Result
    ) -> int:
        """Record a finished rollout with its turns and its text, in one transaction; its id."""
        turns = result.turns
        totals = [
            sum(getattr(turn.completion, name) for turn in turns)
            for name in ("prompt_tokens", "evaluated_tokens", "tokens", "seconds")
        ]
        with self.transaction():
            rollout = self.database.execute(
                "INSERT INTO rollouts (cell_id, persona, item, sample, seed, outcome, forced, "
                "steps, prompt_tokens, evaluated_tokens, tokens, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self.cell_id(cell),
                    *(persona or "", item, sample, seed, result.outcome, result.forced, len(turns)),
                    *totals,
                ),
            ).lastrowid
            assert rollout is not None  # an INSERT has made a row
            self.database.executemany(
                "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_turn_row(rollout, step, turn) for step, turn in enumerate(turns, 1)],
            )
            if result.text is not None:
                self.database.execute(
                    "INSERT INTO samples (rollout_id, text) VALUES (?, ?)",
                    (rollout, well_formed(result.text)),
                )
        return rollout

    def unclassified(self) -> list[Unlabelled]:
        """The samples without a prediction, the oldest first."""
        return self._samples("prediction IS NULL")

    def classify(self, predictions: Sequence[tuple[int, str, Mapping[str, float]]]) -> None:
        """Record (rollout id, label, probabilities)."""
        with self.transaction():
            self.database.executemany(
                "UPDATE samples SET prediction = ?, probabilities = ? WHERE rollout_id = ?",
                [(label, json.dumps(dict(p)), rollout) for rollout, label, p in predictions],
            )

    def predictions(self) -> dict[Cell, Counter[tuple[str | None, str | None]]]:
        """How many samples of each cell have which (persona, prediction); None is none yet."""
        counts: dict[Cell, Counter[tuple[str | None, str | None]]] = {}
        for row in self.select(
            f"SELECT {CELL}, persona, prediction, count(*) "
            "FROM samples JOIN rollouts ON rollouts.id = rollout_id "
            "JOIN cells ON cells.id = cell_id GROUP BY cell_id, persona, prediction"
        ):
            persona, prediction, number = row[WIDTH:]
            counts.setdefault(read_cell(row), Counter())[persona or None, prediction] = number
        return counts

    def rows(self) -> list[Row]:
        """Every finished rollout, in a fixed order."""
        rows = self.select(
            f"SELECT {CELL}, persona, item, sample, seed, outcome, forced, "
            "text, prediction, probabilities, steps, prompt_tokens, tokens, seconds, ended "
            "FROM rollouts JOIN cells ON cells.id = cell_id "
            "LEFT JOIN samples ON rollout_id = rollouts.id "
            "ORDER BY base, quant, condition, format, grammar, stage, lora, kv_type, technique, "
            "persona, item, sample"
        )
        return [_row(row) for row in rows]

    def turns(self) -> dict[RolloutKey, list[RecordedTurn]]:
        """The turns of every finished rollout in order, by (cell, persona, item, sample)."""
        turns: dict[RolloutKey, list[RecordedTurn]] = {}
        for row in self.select(
            f"SELECT {CELL}, persona, item, sample, text, finish, tool, arguments, output, "
            "turns.tokens FROM turns "
            "JOIN rollouts ON rollouts.id = rollout_id "
            "JOIN cells ON cells.id = cell_id ORDER BY rollout_id, step"
        ):
            text, finish, tool, arguments, output, tokens = row[WIDTH + 3 :]
            key = read_key(row)
            with bad_input(f"{self.path}: turns of {key.item}: arguments", ValueError):
                called = sound(json.loads(arguments, parse_constant=str)) if arguments else None
            turn = RecordedTurn(text, finish, tool, called, output, tokens)
            turns.setdefault(key, []).append(turn)
        return turns

    def samples(self) -> list[Unlabelled]:
        """The texts of all samples, labelled or not."""
        return self._samples("TRUE")

    def change_headline(self, before: str, instruments: Sequence[str]) -> None:
        """Keep the headline's labels as those of ``before``; ``instruments`` have yet to label."""
        with self.transaction():
            self.database.execute(
                "INSERT OR REPLACE INTO labels (rollout_id, instrument, prediction, probabilities) "
                "SELECT rollout_id, ?, prediction, probabilities FROM samples "
                "WHERE prediction IS NOT NULL",
                (before,),
            )
            self.database.executemany(
                "DELETE FROM labels WHERE instrument = ?", [(name,) for name in instruments]
            )
            self.database.execute("UPDATE samples SET prediction = NULL, probabilities = NULL")

    def to_relabel(self, instrument: str) -> list[Unlabelled]:
        """The classified samples that this other instrument has not labelled."""
        return self._samples(
            "prediction IS NOT NULL AND NOT EXISTS (SELECT 1 FROM labels WHERE "
            "labels.rollout_id = samples.rollout_id AND instrument = ?)",
            (instrument,),
        )

    def relabel(
        self, instrument: str, labels: Sequence[tuple[int, str, Mapping[str, float]]]
    ) -> None:
        """Record (rollout id, label, probabilities) of another instrument."""
        with self.transaction():
            for rollout, label, probabilities in labels:
                values = [rollout, instrument, label, json.dumps(dict(probabilities))]
                self.insert("labels", values, "OR REPLACE")

    def labels(self, instrument: str) -> dict[RolloutKey, tuple[str, dict[str, float] | None]]:
        """The label and the probabilities of each, by (cell, persona, item, sample).

        Studies of the time before other instruments have no probabilities.
        """
        rows = self.select(
            f"SELECT {CELL}, persona, item, sample, prediction, labels.probabilities FROM labels "
            "JOIN rollouts ON rollouts.id = rollout_id JOIN cells ON cells.id = cell_id "
            "WHERE instrument = ?",
            (instrument,),
        )
        return {read_key(row): (row[-2], row[-1] and json.loads(row[-1])) for row in rows}

    def _samples(self, which: str, values: Sequence[Any] = ()) -> list[Unlabelled]:
        rows = self.select(
            f"SELECT {CELL}, samples.rollout_id, persona, text "
            "FROM samples JOIN rollouts ON rollouts.id = samples.rollout_id "
            f"JOIN cells ON cells.id = cell_id WHERE {which} ORDER BY samples.rollout_id",
            values,
        )
        samples = ((read_cell(row), *row[WIDTH:]) for row in rows)
        return [
            Unlabelled(number, cell, persona or None, text)
            for cell, number, persona, text in samples
        ]

    def cell_id(self, cell: Cell) -> int:
        """The id of a cell, which is added where it is missing."""
        key = columns(cell)
        self.database.execute(f"INSERT OR IGNORE INTO cells ({CELL}) VALUES ({MARKS})", key)
        row = self.database.execute(f"SELECT id FROM cells WHERE ({CELL}) = ({MARKS})", key)
        return int(row.fetchone()[0])


def _row(row: Sequence[Any]) -> Row:
    seed, outcome, forced, text, prediction, probabilities, *counts = row[WIDTH + 3 :]
    parsed = json.loads(probabilities) if probabilities else None
    return Row(*read_key(row), seed, outcome, bool(forced), text, prediction, parsed, *counts)


def _turn_row(rollout: int, step: int, turn: Any) -> tuple[Any, ...]:
    done = turn.completion
    arguments = None if turn.arguments is None else json.dumps(turn.arguments)
    counts = (done.prompt_tokens, done.evaluated_tokens, done.tokens, done.seconds)
    texts = (well_formed(done.text), done.finish, turn.tool, arguments)
    output = None if turn.output is None else well_formed(turn.output)
    return (rollout, step, *texts, output, *counts)
