"""The second instrument: word and character n-grams with a linear classifier.

TF-IDF with sublinear term frequencies (Manning, Raghavan and Schuetze 2008, sec. 6.4.1) and
multinomial logistic regression, as scikit-learn computes them. A classifier is one ``.npz`` file
of plain arrays; terms and labels are UTF-8 text, one a line, in arrays of bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import well_formed_texts
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.runtime.classifier import Prediction, softmax

KIT_FILE = "ngrams.npz"
ANALYZERS = {"words": "word", "characters": "char_wb"}
"""scikit-learn's analyzer of each block of features, in their order."""
MOST_BYTES = 1 << 28  # of all arrays, unpacked
LONGEST_NGRAM = 10
Array = NDArray[Any]


@dataclass(frozen=True)
class Terms:
    """The n-grams of one analyzer, from ``shortest`` to ``longest`` words or characters."""

    shortest: int
    longest: int
    terms: list[str]


@dataclass(frozen=True)
class NgramModel:
    """What the classifier computes with; features are the words' terms, then the characters'.

    ``idf`` (features,), ``weights`` (labels, features), ``intercepts`` (labels,).
    """

    labels: list[str]
    words: Terms
    characters: Terms
    idf: Array
    weights: Array
    intercepts: Array

    @property
    def blocks(self) -> dict[str, Terms]:
        """The terms by the names of `ANALYZERS`."""
        return {"words": self.words, "characters": self.characters}

    def write(self, path: Path) -> None:
        """Write the file; equal models give equal bytes (numpy dates every array 1980)."""
        arrays: dict[str, Array] = {"labels": _pack(self.labels)}
        for name, block in self.blocks.items():
            arrays[name] = _pack(block.terms)
            arrays[f"{name}_range"] = np.array([block.shortest, block.longest], dtype=np.int32)
        arrays["idf"] = self.idf.astype(np.float32)
        arrays["weights"] = self.weights.astype(np.float16)
        arrays["intercepts"] = self.intercepts.astype(np.float32)
        with new_file(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> NgramModel:
        """Read a file that anyone can have written. Raises BadInput naming file and field."""
        arrays = _Arrays(path)
        labels = arrays.lines("labels")
        blocks = {name: arrays.terms(name) for name in ANALYZERS}
        features = sum(len(block.terms) for block in blocks.values())
        idf = arrays.numbers("idf", (features,))
        if idf.min() <= 0:
            raise arrays.error("idf", "must be above 0")
        return cls(
            labels,
            **blocks,
            idf=idf,
            weights=arrays.numbers("weights", (len(labels), features)),
            intercepts=arrays.numbers("intercepts", (len(labels),)),
        )


class NgramClassifier:
    """An n-gram classifier in scikit-learn, with the interface of `Classifier`.

    ``labels`` are in the order of the file; ``limit`` is None: no text is cut. Raises BadInput for
    a file that is missing or cannot be used.
    """

    limit = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        model = NgramModel.read(self.path)
        self.labels = model.labels
        self._vectorizers = _vectorizers(model)
        self._weights = model.weights.astype(np.float64).T
        self._intercepts = model.intercepts.astype(np.float64)

    @classmethod
    def kit(cls) -> NgramClassifier:
        """The n-gram classifier that the package ships. Raises BadInput when it is damaged."""
        return cls(kit_folder() / KIT_FILE)

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order. It does not depend on the other texts.

        Raises BadInput for what is no list of texts.
        """
        from scipy.sparse import hstack

        plain = well_formed_texts(texts)
        if not plain:
            return []
        features = hstack([each.transform(plain) for each in self._vectorizers], format="csr")
        rows = softmax(features @ self._weights + self._intercepts)
        return [
            Prediction(
                self.labels[int(np.argmax(row))], dict(zip(self.labels, row.tolist(), strict=True))
            )
            for row in rows
        ]


def vectorizer(name: str, ngram_range: tuple[int, int], **settings: Any) -> Any:
    """scikit-learn's TF-IDF of one block of features, for training and for use."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer=ANALYZERS[name], ngram_range=ngram_range, sublinear_tf=True, **settings
    )


def _vectorizers(model: NgramModel) -> list[Any]:
    """The fitted vectorizers, one per block."""
    fitted, first = [], 0
    for name, block in model.blocks.items():
        each = vectorizer(name, (block.shortest, block.longest), vocabulary=block.terms)
        each.idf_ = model.idf[first : first + len(block.terms)]
        first += len(block.terms)
        fitted.append(each)
    return fitted


def _pack(lines: Sequence[str]) -> Array:
    """Text, one item a line, as bytes: no term holds a line break."""
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)


class _Arrays:
    """The arrays of an ``.npz`` file, read field by field."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise BadInput(f"{path}: no such file; make one: charprobe-lite train ngrams -o FILE")
        # a damaged archive raises what zipfile, zlib and numpy's header parser each choose to
        with bad_input(f"{path}: not an .npz file of plain arrays", Exception):
            with zipfile.ZipFile(path) as archive:
                size = sum(item.file_size for item in archive.infolist())
            if size > MOST_BYTES:
                raise BadInput(f"{size} bytes when unpacked; at most {MOST_BYTES}")
            with np.load(path, allow_pickle=False) as file:
                self._arrays: dict[str, Array] = {name: file[name] for name in file.files}

    def error(self, field: str, problem: str) -> BadInput:
        return BadInput(
            f"{self._path}: field {field}: {problem}; "
            "make it again: charprobe-lite train ngrams -o FILE"
        )

    def lines(self, field: str) -> list[str]:
        """The different, printable lines of a text."""
        array = self._get(field)
        if array.dtype != np.uint8 or array.ndim != 1:
            raise self.error(field, "must be UTF-8 text as bytes")
        try:
            lines = array.tobytes().decode().split("\n")
        except UnicodeDecodeError:
            raise self.error(field, "must be UTF-8 text as bytes") from None
        if len(set(lines)) < len(lines) or not all(lines):
            raise self.error(field, "must be different lines, none of them empty")
        return lines

    def terms(self, field: str) -> Terms:
        """The terms of a block with the range of their lengths."""
        ends = self._get(f"{field}_range")
        if ends.dtype.kind != "i" or ends.shape != (2,):
            raise self.error(f"{field}_range", "must be two integers")
        shortest, longest = ends.tolist()
        if not 1 <= shortest <= longest <= LONGEST_NGRAM:
            raise self.error(f"{field}_range", f"must rise from 1 to {LONGEST_NGRAM} at most")
        return Terms(shortest, longest, self.lines(field))

    def numbers(self, field: str, shape: tuple[int, ...]) -> Array:
        """Finite numbers of a shape, as float32."""
        array = self._get(field)
        if array.dtype.kind != "f" or array.shape != shape:
            raise self.error(field, f"{array.dtype} {array.shape}, must be numbers {shape}")
        with np.errstate(over="ignore"):  # a number too large becomes infinite
            numbers = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise self.error(field, "holds a number that is not finite")
        return numbers

    def _get(self, field: str) -> Array:
        if field not in self._arrays:
            raise self.error(field, "missing")
        return self._arrays[field]
