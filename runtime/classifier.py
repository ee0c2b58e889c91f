"""The persona classifier in ONNX Runtime: texts to labels and probabilities."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.runtime.device import onnx_providers

MAX_TOKENS = 8192  # ModernBERT's own limit; smaller ones come from the classifier's config
BATCH_TOKENS = 4096  # of one run, padding included


@dataclass(frozen=True)
class Prediction:
    """The likeliest label of a text and the probability of every label."""

    label: str
    probabilities: dict[str, float]


class Classifier:
    """An ONNX text classifier with its tokenizer: ``classify`` gives one Prediction per text.

    ``folder`` holds an .onnx file, ``tokenizer.json`` and ``config.json`` with ``id2label``;
    ``file`` names the .onnx file where there are several; ``device`` is auto, cpu, metal or cuda.
    Raises BadInput naming the file when one is missing or cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        file: str | None = None,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.path, tokenizer, config_file = classifier_files(folder, file)
        config = _read_config(config_file)
        self.labels = _labels(config, config_file)
        limit = _integer(config, config_file, "max_position_embeddings", 1, MAX_TOKENS, MAX_TOKENS)
        self._pad = _integer(config, config_file, "pad_token_id", 0, 2**31, 0)
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises bare Exception
            raise BadInput(f"{tokenizer}: {first_problem(error)}") from None
        self._tokenizer.enable_truncation(limit)
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                self.path, options, providers=onnx_providers(device, self.path)
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            problem = first_problem(error)
            raise BadInput(f"{self.path}: ONNX Runtime cannot load it: {problem}") from None
        self._alone = _is_dynamic(self.path)
        self._inputs = {item.name for item in self._session.get_inputs()}
        self._check_size()

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """Label every text, in order; texts of similar length share a run.

        A dynamically quantized model gets one text a run: it scales its activations over the
        whole batch, so that a label would depend on the company.
        """
        rows = [list(item.ids) or [self._pad] for item in self._tokenizer.encode_batch(list(texts))]
        found: dict[int, Prediction] = {}
        for batch in self._batches([len(row) for row in rows]):
            scores = self._probabilities([rows[number] for number in batch])
            found.update(zip(batch, map(self._prediction, scores), strict=True))
        return [found[number] for number in range(len(rows))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of the texts of each run, by length, at most BATCH_TOKENS with the padding."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lengths.__getitem__):
            full = self._alone or (len(batch) + 1) * lengths[number] > BATCH_TOKENS
            if batch and full:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _prediction(self, scores: NDArray[np.float64]) -> Prediction:
        named = {label: float(p) for label, p in zip(self.labels, scores, strict=True)}
        return Prediction(self.labels[int(np.argmax(scores))], named)

    def _probabilities(self, rows: Sequence[list[int]]) -> NDArray[np.float64]:
        """Softmax of the logits, (rows, labels), for rows of token ids."""
        ids = np.full((len(rows), max(map(len, rows))), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        feed = {name: value for name, value in feed.items() if name in self._inputs}
        try:
            logits = self._session.run(None, feed)[0].astype(np.float64)
        except Exception as error:  # whatever the graph breaks on, a foreign tokenizer's ids say
            raise BadInput(f"{self.path}: cannot classify: {first_problem(error)}") from None
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def _check_size(self) -> None:
        width = self._probabilities([[self._pad]]).shape[1]
        if width != len(self.labels):
            raise BadInput(
                f"{self.path.parent / 'config.json'}: field id2label: {len(self.labels)} labels, "
                f"but {self.path.name} gives {width}"
            )


class ClassifierFiles(NamedTuple):
    """The .onnx file, tokenizer.json and config.json of a classifier folder."""

    model: Path
    tokenizer: Path
    config: Path


def classifier_files(folder: Path, file: str | None = None) -> ClassifierFiles:
    """The files of a classifier folder; ``file`` names the .onnx file where there are several.

    Raises BadInput when the folder is missing or its .onnx file is not clear.
    """
    model = folder / (file or _only_onnx(folder))
    return ClassifierFiles(model, folder / "tokenizer.json", folder / "config.json")


def _is_dynamic(path: Path) -> bool:
    """Whether the graph scales activations while it runs; operators stand by name in the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        return graph.find(b"DynamicQuantizeLinear") >= 0


def _integer(
    config: dict[str, Any], path: Path, field: str, least: int, most: int, default: int
) -> int:
    value = config.get(field, default)
    if value is None:
        return default
    if not isinstance(value, int) or value < least:
        raise BadInput(f"{path}: field {field}: must be a whole number of at least {least}")
    return min(value, most)


def _only_onnx(folder: Path) -> str:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; name a folder with model.onnx")
    names = sorted(file.name for file in folder.glob("*.onnx"))
    if "model.onnx" in names:
        return "model.onnx"
    if len(names) != 1:
        raise BadInput(f"{folder}: holds {len(names)} .onnx files; one named model.onnx is needed")
    return names[0]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {first_problem(error)}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: must be a JSON object with id2label")
    return config


def _labels(config: dict[str, Any], path: Path) -> list[str]:
    id2label = config.get("id2label")
    if not isinstance(id2label, dict):
        raise BadInput(f"{path}: field id2label: missing; it maps 0, 1, ... to the labels")
    try:
        return [str(id2label[str(number)]) for number in range(len(id2label))]
    except KeyError as error:
        raise BadInput(f"{path}: field id2label: has no entry {error}") from None
