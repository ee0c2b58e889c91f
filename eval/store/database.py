"""The study store: one SQLite file with everything that was recorded, tables in `schema`.

A rollout and all its rows are one transaction, and so is a text's fidelity: after a kill it is
either there whole or not there. A study of an earlier schema is brought up to this one when it is
opened.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell, RecordedTurn, RolloutKey, Row
from charprobe_lite.eval.store.migrations import MIGRATIONS, SCHEMA_VERSION
from charprobe_lite.eval.store.records import ModelFile, RecordedText, TextKey, Unlabelled
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from filelock import FileLock

    from charprobe_lite.eval.conditions.outcome import Result

PINNED = ("seed", "temperature", "top_p", "max_tokens", "max_steps", "context")
"""What of the provenance decides every rollout, beside the hashes and the names on a server."""


WIDTH = len(fields(Cell))
CELL = ", ".join(field.name for field in fields(Cell))
"""The columns of a cell, in SQL, as many as ``WIDTH``."""
MARKS = ", ".join("?" * WIDTH)


class Store:
    """A study file, open for one process. Use as a context manager.

    With ``readonly`` it is the study as it stands now, copied into memory: the file may be written
    meanwhile, and is neither changed nor brought up to this schema. Raises BadInput when the file
    is no study, has another schema version, is being written by another process, or the disk is
    full.
    """

    def __init__(self, path: Path, readonly: bool = False) -> None:
        self.path = path
        self._lock = None if readonly else _locked(path)
        try:
            self._db = _copied(path) if readonly else _connected(path)
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise BadInput(f"{path}: study cannot be opened: {error}; choose --study") from None
        try:
            with self._one_line():
                self._prepare()
        except BadInput:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes write it."""
        self._db.close()
        self._release()

    def provenance(self) -> dict[str, Any]:
        """What the study was made with."""
        rows = self._select("SELECT name, value FROM provenance")
        return {name: json.loads(value) for name, value in rows}

    def pin(self, values: Mapping[str, Any]) -> None:
        """Record what must not change within a study, or check it against what was recorded.

        A study without a rollout yet is bound to nothing. Raises BadInput naming the first value
        that differs.
        """
        bound = self._select("SELECT EXISTS (SELECT 1 FROM rollouts)")[0][0]
        known = self.provenance() if bound else {}
        for name, value in values.items():
            if name in known and known[name] != value:
                raise BadInput(
                    f"{self.path}: field {name}: the study has {short(known[name])}, this run "
                    f"{short(value)}; choose another --study"
                )
        self.note({name: value for name, value in values.items() if name not in known})

    def note(self, values: Mapping[str, Any]) -> None:
        """Record facts that may change from run to run; the last run's stay."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO provenance VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [(name, json.dumps(value)) for name, value in values.items()],
            )

    def done(self, cell: Cell, persona: str) -> set[tuple[str, int]]:
        """(item, sample) of the rollouts that have ended."""
        rows = self._select(
            "SELECT item, sample FROM rollouts JOIN cells ON cells.id = cell_id WHERE "
            f"({CELL}, persona) = ({MARKS}, ?)",
            (*astuple(cell), persona),
        )
        return set(rows)

    def add(
        self, cell: Cell, persona: str, item: str, sample: int, seed: int, result: Result
    ) -> int:
        """Record a finished rollout with its turns and its text, in one transaction; its id."""
        turns = result.turns
        totals = [
            sum(getattr(turn.completion, name) for turn in turns)
            for name in ("prompt_tokens", "evaluated_tokens", "tokens", "seconds")
        ]
        with self._transaction():
            rollout = self._db.execute(
                "INSERT INTO rollouts (cell_id, persona, item, sample, seed, outcome, forced, "
                "steps, prompt_tokens, evaluated_tokens, tokens, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._cell_id(cell),
                    *(persona, item, sample, seed, result.outcome, result.forced, len(turns)),
                    *totals,
                ),
            ).lastrowid
            assert rollout is not None  # an INSERT has made a row
            self._db.executemany(
                "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_turn_row(rollout, step, turn) for step, turn in enumerate(turns, 1)],
            )
            if result.text is not None:
                self._db.execute(
                    "INSERT INTO samples (rollout_id, text) VALUES (?, ?)",
                    (rollout, storable(result.text)),
                )
        return rollout

    def take(self, other: Store) -> int:
        """Add the rollouts of another study that are not here, and labels that are missing here.

        Gives the number of rollouts. What is known of files and of texts that they have read is
        taken too. Raises BadInput naming a rollout that both have, but not with the same seed,
        outcome and text, and likewise a file or a text.
        """
        self._take_files(other)
        self._take_texts(other)
        here = {key: rest for key, *rest in self._labelled()}
        added = 0
        with self._transaction():
            for key, rollout, made, label in other._labelled():
                if key not in here:
                    self._copy(other, rollout, Cell(*key[:WIDTH]))
                    added += 1
                    continue
                own, own_made, own_label = here[key]
                if own_made != made:
                    named = "/".join(filter(None, map(str, key)))
                    raise BadInput(
                        f"{other.path}: rollout {named}: stands in an earlier part with another "
                        "seed, outcome or text; merge parts of one study"
                    )
                if own_label == (None, None) and label != own_label:
                    self._db.execute(
                        "UPDATE samples SET prediction = ?, probabilities = ? WHERE rollout_id = ?",
                        (*label, own),
                    )
                for _, *values in other._rows_of("labels", rollout):
                    self._insert("labels", [own, *values], "OR IGNORE")
        return added

    def save(self, path: Path) -> None:
        """Write the study as it stands here to another file. Raises BadInput."""
        with self._one_line(), closing(sqlite3.connect(path)) as file:
            self._db.backup(file)

    def _labelled(self) -> Iterator[tuple[tuple[Any, ...], int, tuple[Any, ...], tuple[Any, ...]]]:
        """Of every rollout its key, id, (seed, outcome, text) and (prediction, probabilities)."""
        for row in self._select(
            f"SELECT {CELL}, persona, item, sample, rollouts.id, seed, outcome, text, prediction, "
            "probabilities FROM rollouts JOIN cells ON cells.id = cell_id "
            "LEFT JOIN samples ON rollout_id = rollouts.id ORDER BY rollouts.id"
        ):
            rollout, *rest = row[WIDTH + 3 :]
            yield row[: WIDTH + 3], rollout, tuple(rest[:3]), tuple(rest[3:])

    def _copy(self, other: Store, rollout: int, cell: Cell) -> None:
        """A rollout of another study with its turns and its sample, under an id of this one's."""
        [(_, _, *facts)] = other._select("SELECT * FROM rollouts WHERE id = ?", (rollout,))
        own = self._insert("rollouts", [None, self._cell_id(cell), *facts])
        for table in ("turns", "samples", "labels"):
            for _, *values in other._rows_of(table, rollout):
                self._insert(table, [own, *values])

    def _rows_of(self, table: str, rollout: int) -> list[Any]:
        return self._select(f"SELECT * FROM {table} WHERE rollout_id = ?", (rollout,))

    def _insert(self, table: str, values: Sequence[Any], conflict: str = "") -> int | None:
        marks = ", ".join("?" * len(values))
        statement = f"INSERT {conflict} INTO {table} VALUES ({marks})"
        return self._db.execute(statement, values).lastrowid

    def _take_files(self, other: Store) -> None:
        """What another study knows of files; the speed of the first that measured it stays."""
        here = {(each.base, each.quant, each.lora): each for each in self.files()}
        for each in other.files():
            own = here.get((each.base, each.quant, each.lora))
            unlike = own and replace(each, tokens_per_second=None, peak_bytes=None) != replace(
                own, tokens_per_second=None, peak_bytes=None
            )
            if unlike:
                raise BadInput(
                    f"{other.path}: file {each.base} {each.quant} {each.lora}: has another size "
                    "or other weights in an earlier part; merge parts of one study"
                )
            if own is None or own.tokens_per_second is None:
                self.add_file(each)

    def _take_texts(self, other: Store) -> None:
        here, theirs = {each.key: each for each in self.texts()}, other.texts()
        for each in theirs:
            if here.get(each.key, each) != each:
                named = "/".join(filter(None, astuple(each.key)))
                raise BadInput(
                    f"{other.path}: fidelity {named}: stands in an earlier part with other "
                    "numbers; merge parts of one study"
                )
        self.add_texts(theirs)

    def unclassified(self) -> list[Unlabelled]:
        """The samples without a prediction, the oldest first."""
        return self._samples("prediction IS NULL")

    def _samples(self, which: str, values: Sequence[Any] = ()) -> list[Unlabelled]:
        found = self._select(
            f"SELECT {CELL}, samples.rollout_id, persona, text "
            "FROM samples JOIN rollouts ON rollouts.id = samples.rollout_id "
            f"JOIN cells ON cells.id = cell_id WHERE {which} ORDER BY samples.rollout_id",
            values,
        )
        return [Unlabelled(row[WIDTH], Cell(*row[:WIDTH]), *row[WIDTH + 1 :]) for row in found]

    def classify(self, predictions: Sequence[tuple[int, str, Mapping[str, float]]]) -> None:
        """Record (rollout id, label, probabilities)."""
        with self._transaction():
            self._db.executemany(
                "UPDATE samples SET prediction = ?, probabilities = ? WHERE rollout_id = ?",
                [(label, json.dumps(dict(p)), rollout) for rollout, label, p in predictions],
            )

    def add_file(self, file: ModelFile) -> None:
        """Record what a file costs; what was measured of it before stays if this has nothing."""
        values = [json.dumps(v) if isinstance(v, dict) else v for v in vars(file).values()]
        with self._transaction():
            self._db.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (base, quant, lora) DO UPDATE SET "
                "bits_per_weight = excluded.bits_per_weight, bytes = excluded.bytes, "
                "tensor_types = excluded.tensor_types, "
                "tokens_per_second = ifnull(excluded.tokens_per_second, tokens_per_second), "
                "peak_bytes = ifnull(excluded.peak_bytes, peak_bytes)",
                values,
            )

    def files(self) -> list[ModelFile]:
        """The files, in the order in which they were recorded."""
        found = self._select("SELECT * FROM files ORDER BY rowid")
        return [
            ModelFile(base, quant, lora, bits, size, json.loads(types), speed, peak)
            for base, quant, lora, bits, size, types, speed, peak in found
        ]

    def add_texts(self, texts: Sequence[RecordedText]) -> None:
        """Record what texts are to files, in one transaction; what is there already stays."""
        with self._transaction():
            for each in texts:
                values = [*astuple(each.key), each.nll, each.kl, each.same_top, each.left_out]
                self._insert("fidelity", values, "OR IGNORE")

    def texts(self) -> list[RecordedText]:
        """All that was recorded of texts, in the order in which it was."""
        found = self._select("SELECT * FROM fidelity ORDER BY rowid")
        return [RecordedText(TextKey(*row[:7]), *row[7:]) for row in found]

    def texts_read(self) -> set[TextKey]:
        """Which texts were read by which file."""
        names = ", ".join(field.name for field in fields(TextKey))
        return {TextKey(*row) for row in self._select(f"SELECT {names} FROM fidelity")}

    def to_relabel(self, precision: str) -> list[Unlabelled]:
        """The classified samples that have no label of the classifier in this precision."""
        return self._samples(
            "prediction IS NOT NULL AND NOT EXISTS (SELECT 1 FROM labels WHERE "
            "labels.rollout_id = samples.rollout_id AND precision = ?)",
            (precision,),
        )

    def relabel(self, precision: str, labels: Sequence[tuple[int, str]]) -> None:
        """Record (rollout id, label) of the classifier in this precision."""
        with self._transaction():
            for rollout, label in labels:
                self._insert("labels", [rollout, precision, label], "OR REPLACE")

    def labels(self, precision: str) -> dict[RolloutKey, str]:
        """Those labels, by (cell, persona, item, sample)."""
        found = self._select(
            f"SELECT {CELL}, persona, item, sample, prediction FROM labels "
            "JOIN rollouts ON rollouts.id = rollout_id JOIN cells ON cells.id = cell_id "
            "WHERE precision = ?",
            (precision,),
        )
        return {(Cell(*row[:WIDTH]), *row[WIDTH:-1]): row[-1] for row in found}

    def predictions(self) -> dict[Cell, Counter[tuple[str, str | None]]]:
        """How many samples of each cell have which (persona, prediction); None is none yet."""
        found: dict[Cell, Counter[tuple[str, str | None]]] = {}
        for row in self._select(
            f"SELECT {CELL}, persona, prediction, count(*) "
            "FROM samples JOIN rollouts ON rollouts.id = rollout_id "
            "JOIN cells ON cells.id = cell_id GROUP BY cell_id, persona, prediction"
        ):
            persona, prediction, number = row[WIDTH:]
            found.setdefault(Cell(*row[:WIDTH]), Counter())[persona, prediction] = number
        return found

    def rows(self) -> list[Row]:
        """Every finished rollout, in a fixed order."""
        found = self._select(
            f"SELECT {CELL}, persona, item, sample, seed, outcome, forced, "
            "text, prediction, probabilities, steps, prompt_tokens, tokens, seconds, ended "
            "FROM rollouts JOIN cells ON cells.id = cell_id "
            "LEFT JOIN samples ON rollout_id = rollouts.id "
            "ORDER BY base, quant, condition, format, grammar, stage, lora, persona, item, "
            "sample"
        )
        return [_row(row) for row in found]

    def turns(self) -> dict[RolloutKey, list[RecordedTurn]]:
        """The turns of every finished rollout in order, by (cell, persona, item, sample)."""
        found: dict[RolloutKey, list[RecordedTurn]] = {}
        for row in self._select(
            f"SELECT {CELL}, persona, item, sample, text, finish, tool, arguments, output, "
            "turns.tokens FROM turns "
            "JOIN rollouts ON rollouts.id = rollout_id "
            "JOIN cells ON cells.id = cell_id ORDER BY rollout_id, step"
        ):
            text, finish, tool, arguments, output, tokens = row[WIDTH + 3 :]
            called = json.loads(arguments) if arguments else None
            turn = RecordedTurn(text, finish, tool, called, output, tokens)
            key = (Cell(*row[:WIDTH]), *row[WIDTH : WIDTH + 3])
            found.setdefault(key, []).append(turn)
        return found

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master")}
        if not 0 < version <= SCHEMA_VERSION if tables else version != 0:
            raise BadInput(
                f"{self.path}: schema version {version}, this program writes {SCHEMA_VERSION}; "
                "choose another --study"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        # off while tables change places: what refers to them stays as it is
        self._db.execute("PRAGMA foreign_keys = OFF")
        with self._transaction():
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";\n"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("PRAGMA foreign_keys = ON")

    def _release(self) -> None:
        if self._lock:
            self._lock.release()

    def _select(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._one_line():
            return self._db.execute(query, values).fetchall()

    def _cell_id(self, cell: Cell) -> int:
        key = astuple(cell)
        self._db.execute(f"INSERT OR IGNORE INTO cells ({CELL}) VALUES ({MARKS})", key)
        found = self._db.execute(f"SELECT id FROM cells WHERE ({CELL}) = ({MARKS})", key)
        return int(found.fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._one_line():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """SQLite's errors as one line with the mend."""
        try:
            yield
        except sqlite3.Error as error:
            mend = {
                "SQLITE_FULL": "free some disk space and start again: what ended is kept",
                "SQLITE_BUSY": "another process is writing this study; wait for it",
                "SQLITE_NOTADB": "not a SQLite file; choose another --study",
                "SQLITE_CORRUPT": "the file is damaged; choose another --study",
            }.get(getattr(error, "sqlite_errorname", ""), "choose another --study")
            raise BadInput(f"{self.path}: {error}; {mend}") from None


def _locked(path: Path) -> FileLock:
    """The study's lock, held: readers are welcome, a second writer would run the same rollouts."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"{path}: another process is running this study; wait for it or choose --study"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: study cannot be opened: {error}; choose --study") from None
    return lock


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=5)


def _copied(path: Path) -> sqlite3.Connection:
    """The study as it stands, in memory. Raises sqlite3.Error also where there is no file."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    # not mode=ro, which leaves its -wal and -shm files behind; rw never makes a new study
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=5)) as study:
        study.backup(copy)
    return copy


def _row(values: tuple[Any, ...]) -> Row:
    named, own = values[:WIDTH], values[WIDTH:]
    persona, item, sample, seed, outcome, forced, text, prediction, probabilities = own[:9]
    steps, prompt_tokens, tokens, seconds, ended = own[9:]
    return Row(
        cell=Cell(*named),
        persona=persona,
        item=item,
        sample=sample,
        seed=seed,
        outcome=outcome,
        forced=bool(forced),
        text=text,
        prediction=prediction,
        probabilities=json.loads(probabilities) if probabilities else None,
        steps=steps,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        seconds=seconds,
        ended=ended,
    )


def _turn_row(rollout: int, step: int, turn: Any) -> tuple[Any, ...]:
    done = turn.completion
    arguments = None if turn.arguments is None else json.dumps(turn.arguments)
    counts = (done.prompt_tokens, done.evaluated_tokens, done.tokens, done.seconds)
    texts = (storable(done.text), done.finish, turn.tool, arguments)
    output = None if turn.output is None else storable(turn.output)
    return (rollout, step, *texts, output, *counts)


def storable(text: str) -> str:
    """Text without lone surrogates (a model can write them in JSON), which SQLite refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_pinned(name: str) -> bool:
    """Whether a provenance value must be the same for all rollouts of a study."""
    return name in PINNED or name.startswith(("sha256 ", "served "))


def short(value: Any) -> str:
    """A provenance value for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
