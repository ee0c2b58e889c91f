"""What a reference says about texts, kept on disk: it is loaded once, whatever is compared with it.

A position's log-probabilities take two bytes per token of the vocabulary. The TOP likeliest tokens
are exact, as are the likeliest of all and the log-likelihood of the text's own token. The others
are rounded to 65,536 steps between the least likely and the least likely of the TOP: by at most
half a step, 0.0002 nats where they are 25 nats apart. Their common mass is kept. Perplexity and
agreement on the likeliest token are therefore exact, and KL(reference || model) is off by at most
half a step times the mass of the others times their mean |log(p / q)|: its error shrinks with the
divergence itself. tests/test_fidelity.py holds it to 1e-4 of the mean of a text of the kit.
"""

import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.fidelity import (
    EMPTY,
    Fidelity,
    TextReader,
    TokenizedText,
    concatenate,
    kl_divergence,
    log_softmax,
    refuse_no_numbers,
    refuse_other_vocabulary,
    scored_logits,
)

TOP = 128
STEPS = 65535
MOST_BYTES = 8 << 30
"""On disk at once; texts beyond it are read after the others have been compared."""


@dataclass(frozen=True)
class StoredText:
    """A text that the reference has read, and where the file has its rows."""

    text: TokenizedText
    reference: Path
    vocabulary: int
    offset: int


class StoredReference(AbstractContextManager["StoredReference"]):
    """The reference's log-probabilities of texts, in a file of ``folder`` without a name.

    The system removes it when it is closed, or its process killed. It is full with ``most_bytes``,
    or with half of the disk's free space. A context manager.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._size = folder, 0
        self._most = min(most_bytes, shutil.disk_usage(folder).free // 2)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed at the end

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def is_full(self) -> bool:
        """Whether no other text should be added."""
        return self._size >= self._most

    def add(self, text: TokenizedText, reader: TextReader) -> StoredText:
        """Let the reference read a text. Raises BadInput, also for a full disk."""
        model, offset = reader.model, self._size
        for logits, targets in scored_logits(reader.context, text, reader.length):
            with np.errstate(invalid="ignore"):  # logits that are not numbers are refused
                log_p = log_softmax(logits)
            nll = -log_p[np.arange(len(targets)), targets].astype(np.float32)
            refuse_no_numbers(model, nll)
            data = encode(log_p, logits.argmax(axis=1), nll).tobytes()
            try:
                self._file.write(data)
            except OSError as error:
                raise BadInput(
                    f"{self._folder}: cannot be written ({error.strerror or error}); free space"
                ) from None
            self._size += len(data)
        return StoredText(text, model.path, model.vocabulary_size, offset)

    def compare(self, stored: StoredText, reader: TextReader) -> Fidelity:
        """Let another model read the text. Raises BadInput, also for another vocabulary."""
        model, kind = reader.model, row_type(stored.vocabulary)
        refuse_other_vocabulary(model, stored.reference, stored.vocabulary)
        parts = [replace(EMPTY, overflow=sum(stored.text.scored[reader.length :]))]
        self._file.seek(stored.offset)
        for logits, targets in scored_logits(reader.context, stored.text, reader.length):
            rows = np.frombuffer(self._file.read(kind.itemsize * len(targets)), kind)
            with np.errstate(invalid="ignore"):
                log_q = log_softmax(logits)
            parts.append(
                Fidelity(
                    nll=-log_q[np.arange(len(targets)), targets].astype(np.float32),
                    reference_nll=rows["nll"],
                    kl=kl_divergence(decode(rows), log_q).astype(np.float32),
                    same_top=rows["best"] == logits.argmax(axis=1),
                )
            )
        self._file.seek(self._size)
        fidelity = concatenate(parts)
        refuse_no_numbers(model, fidelity.nll)
        return fidelity


def row_type(vocabulary: int) -> np.dtype[np.void]:
    """How a position is stored."""
    top = min(TOP, vocabulary)
    return np.dtype(
        [
            *(("lowest", "<f8"), ("step", "<f8"), ("nll", "<f4"), ("best", "<i4")),
            *(("top", "<i4", (top,)), ("values", "<f8", (top,)), ("codes", "<u2", (vocabulary,))),
        ]
    )


def encode(
    log_p: NDArray[np.float64], best: NDArray[np.intp], nll: NDArray[np.float32]
) -> NDArray[np.void]:
    """Log-probabilities, (n, vocabulary), the likeliest token and the text's own one's, as rows."""
    n, vocabulary = log_p.shape
    rows = np.empty(n, row_type(vocabulary))
    count = rows["top"].shape[1]
    rest = log_p.astype(np.float32)  # fine enough for the steps, and twice as fast
    top = np.argpartition(rest, vocabulary - count, axis=1)[:, vocabulary - count :]
    values = np.take_along_axis(log_p, top, axis=1)
    lowest = rest.min(axis=1, keepdims=True)
    step = (values.min(axis=1, keepdims=True).astype(np.float32) - lowest) / np.float32(STEPS)
    step[step <= 0] = 1
    codes = np.rint((rest - lowest) / step).clip(0, STEPS)
    # the common mass of the rounded tokens, before and after
    masses = [np.exp(each) for each in (rest, lowest + step * codes)]
    for mass in masses:
        np.put_along_axis(mass, top, 0, axis=1)
    exact, rounded = (mass.sum(axis=1, dtype=np.float64) for mass in masses)
    shift = np.log(np.divide(exact, rounded, out=np.ones_like(exact), where=rounded > 0))
    rows["lowest"], rows["step"] = lowest[:, 0] + shift, step[:, 0]
    rows["nll"], rows["best"] = nll, best
    rows["top"], rows["values"], rows["codes"] = top, values, codes
    return rows


def decode(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """The log-probabilities of ``rows``, (n, vocabulary)."""
    log_p = rows["codes"] * rows["step"][:, None]
    log_p += rows["lowest"][:, None]
    np.put_along_axis(log_p, rows["top"].astype(np.intp), rows["values"], axis=1)
    return np.asarray(log_p)
