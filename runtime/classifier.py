"""The persona classifier in ONNX Runtime: texts to labels and probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import read_text, well_formed_texts
from charprobe_lite.models.kit import CLASSIFIER_FILE, kit_classifier
from charprobe_lite.runtime.device import is_int8, onnx_providers
from charprobe_lite.runtime.native_trial import try_classifier

MAX_TOKENS = 8192  # ModernBERT's limit; smaller ones come from the classifier's config
# they number a text's positions from the padding id + 1, so that the first ones are never used
ROBERTA_LIKE = {"camembert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta"}
ROBERTA_PADDING = 1
ONE_OF_THEM = "single_label_classification"
"""transformers' problem type of a text that has one of the labels: its scores take a softmax."""
BATCH_TOKENS = 4096  # of one run, padding included


@dataclass(frozen=True)
class Prediction:
    """The likeliest label of a text and the probability of every label, which sum to 1.

    ``cut`` says that the text was longer than the model's limit of tokens.
    """

    label: str
    probabilities: dict[str, float]
    cut: bool = False


class TextClassifier(Protocol):
    """What names the persona of a text: ``labels``, the file, and predictions in order.

    ``limit`` is the most tokens that it reads of a text, None for no limit.
    """

    labels: list[str]
    path: Path

    @property
    def limit(self) -> int | None: ...

    def classify(self, texts: Sequence[str]) -> list[Prediction]: ...


class ClassifierFiles(NamedTuple):
    """The .onnx file, tokenizer.json and config.json of a classifier folder."""

    model: Path
    tokenizer: Path
    config: Path


class ClassifierConfig(BaseModel):
    """The part of a classifier's config.json that it needs to run."""

    id2label: dict[int, str]
    problem_type: str | None = None
    model_type: str | None = None
    max_position_embeddings: Annotated[int, Field(ge=1)] | None = None
    pad_token_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    @field_validator("id2label")
    @classmethod
    def _check_labels(cls, labels: dict[int, str]) -> dict[int, str]:
        if len(labels) == 1:  # transformers means a regression
            raise PydanticCustomError("labels", "one label is a score; two are needed")
        return labels

    @field_validator("problem_type")
    @classmethod
    def _check_problem(cls, problem: str | None) -> str | None:
        if problem not in (None, ONE_OF_THEM):
            raise PydanticCustomError(
                "problem",
                "{problem} has no probabilities that sum to 1; {kind} is needed",
                {"problem": problem[:80], "kind": ONE_OF_THEM},
            )
        return problem

    @property
    def padding(self) -> int:
        """The token id that fills short texts."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return ROBERTA_PADDING if self.model_type in ROBERTA_LIKE else 0

    @property
    def limit(self) -> int:
        """The most tokens of a text, special ones included, that have a position."""
        skipped = self.padding + 1 if self.model_type in ROBERTA_LIKE else 0
        positions = self.max_position_embeddings
        return MAX_TOKENS if positions is None else min(positions - skipped, MAX_TOKENS)


class Classifier:
    """An ONNX text classifier with its tokenizer.

    ``folder`` has an .onnx file, ``tokenizer.json`` and ``config.json`` with ``id2label``, of which
    a text has one: others (``problem_type``) are refused;
    ``file`` names the .onnx file where there are several; ``threads`` defaults to ONNX Runtime's
    choice; ``device`` is auto, cpu, metal or cuda. ``labels`` are in the order of the model's
    outputs, ``limit`` is the most tokens that it reads. A graph that asks for ``token_type_ids``,
    as other tools export BERT, gets those of a text alone: zeros. The files are tried in a child
    process first (`native_trial`) unless they are ``tried``. Raises BadInput naming the file
    that is missing or cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        file: str | None = None,
        threads: int | None = None,
        device: str = "auto",
        *,
        tried: bool = False,
    ) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.path, tokenizer, config_file = classifier_files(Path(folder), file)
        config = _read_config(config_file)
        self.labels = [config.id2label[index] for index in range(len(config.id2label))]
        self._pad, self.limit = config.padding, config.limit
        if not tried:
            try_classifier(self.path)
        with bad_input(tokenizer, Exception):  # the library raises bare Exception
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        with bad_input(f"{config_file}: field max_position_embeddings", Exception):
            self._tokenizer.enable_truncation(self.limit)  # not below the special tokens
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions, too
        if threads:
            options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = onnx_providers(device, self.path)
        # ONNX Runtime's exceptions share no public base class
        with bad_input(f"{self.path}: ONNX Runtime cannot load it", Exception):
            self._session = onnxruntime.InferenceSession(self.path, options, providers=providers)
        # a dynamically quantized model scales its activations over all texts of a run, so that a
        # label would depend on the other texts: it gets one text a run
        self._one_per_run = is_int8(self.path)
        self._inputs = {item.name for item in self._session.get_inputs()}
        width = self._probabilities([[self._pad]]).shape[1]
        if width != len(self.labels):
            raise BadInput(
                f"{config_file}: field id2label: {len(self.labels)} labels, "
                f"but {self.path.name} gives {width}"
            )

    @classmethod
    def kit(
        cls, name: str = "minilm", threads: int | None = None, device: str = "auto"
    ) -> Classifier:
        """The kit's classifier ``minilm`` or ``modernbert``, on its own: see `Ensemble`.

        Raises BadInput for another name, and when its files are damaged.
        """
        return cls(kit_classifier(name), CLASSIFIER_FILE, threads, device)

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order; longer texts are cut at the model's limit of tokens.

        A text's prediction does not depend on the other texts. Raises BadInput for what is no list
        of texts, and when the graph cannot run on the tokenizer's ids.
        """
        items = self._tokenizer.encode_batch(well_formed_texts(texts))
        rows = [list(item.ids) or [self._pad] for item in items]
        predictions: dict[int, Prediction] = {}
        for batch in self._batches([len(row) for row in rows]):
            scores = self._probabilities([rows[index] for index in batch])
            for index, row in zip(batch, scores, strict=True):
                probabilities = dict(zip(self.labels, row.tolist(), strict=True))
                label, cut = self.labels[int(np.argmax(row))], bool(items[index].overflowing)
                predictions[index] = Prediction(label, probabilities, cut)
        return [predictions[index] for index in range(len(rows))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of the texts of each run, by length, at most BATCH_TOKENS with the padding."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            too_large = (len(batch) + 1) * lengths[index] > BATCH_TOKENS
            if batch and (self._one_per_run or too_large):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _probabilities(self, rows: Sequence[list[int]]) -> NDArray[np.float64]:
        """Softmax of the logits, (rows, labels), for rows of token ids."""
        ids = np.full((len(rows), max(map(len, rows))), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: value for name, value in feed.items() if name in self._inputs}
        with bad_input(f"{self.path}: cannot classify", Exception):  # another tokenizer's ids
            logits = self._session.run(None, feed)[0].astype(np.float64)
        if logits.ndim != 2 or len(logits) != len(rows) or not np.isfinite(logits).all():
            raise BadInput(
                f"{self.path}: cannot classify: it gives scores of shape {logits.shape} for "
                f"{len(rows)} texts, or what is no number; export it again"
            )
        return softmax(logits)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (rows, labels) of logits (rows, labels)."""
    # not by scipy.special, whose import would add 0.2 s to every start
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def classifier_files(folder: Path, file: str | None = None) -> ClassifierFiles:
    """The files of a classifier folder; ``file`` names the .onnx file where there are several.

    Raises BadInput when the folder is missing or its .onnx file is not clear.
    """
    if not file:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; name a folder with model.onnx")
        names = [path.name for path in folder.glob("*.onnx")]
        if len(names) != 1 and "model.onnx" not in names:
            raise BadInput(
                f"{folder}: has {len(names)} .onnx files; one named model.onnx is needed"
            )
        file = "model.onnx" if "model.onnx" in names else names[0]
    return ClassifierFiles(folder / file, folder / "tokenizer.json", folder / "config.json")


def classifier_labels(path: Path) -> list[str]:
    """The labels in a classifier's config.json, in the order of its outputs. Raises BadInput."""
    labels = _read_config(path).id2label
    return [labels[index] for index in range(len(labels))]


def _read_config(path: Path) -> ClassifierConfig:
    with bad_input(path, ValidationError):
        config = ClassifierConfig.model_validate_json(read_text(path))
    if config.id2label.keys() != set(range(len(config.id2label))):
        raise BadInput(f"{path}: field id2label: must map 0, 1, ... to the labels")
    return config
