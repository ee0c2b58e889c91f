"""A classifier of the user's own voices: MiniLM fine-tuned, as ONNX, with a score."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sklearn.metrics import f1_score

from charprobe_lite.convert.onnx import ONNX_FILES, export_classifier
from charprobe_lite.convert.train.classifier import FineTuning, fine_tune
from charprobe_lite.convert.train.lora import Progress
from charprobe_lite.convert.train.pretrained import pretrained_minilm
from charprobe_lite.runtime.classifier import Classifier


def train_own_classifier(
    texts: Sequence[str],
    labels: Sequence[str],
    held_out: Sequence[int],
    target: Path,
    seed: int,
    progress: Progress | None = None,
) -> float:
    """Train on the texts that are not ``held_out``, and write model.onnx (fp32) to ``target``.

    Returns macro-F1 of the file on the texts held out, by index. Raises BadInput when ``target``
    has files, or the pretrained weights are missing.
    """
    measured = set(held_out)
    kept = [index for index in range(len(texts)) if index not in measured]
    names, held_texts = sorted(set(labels)), [texts[index] for index in held_out]
    with TemporaryDirectory() as folder:
        encoder, trained = Path(folder) / "encoder", Path(folder) / "classifier"
        fine_tune(
            pretrained_minilm(encoder),
            [texts[index] for index in kept],
            [labels[index] for index in kept],
            names,
            trained,
            FineTuning(seed=seed),
            progress,
        )
        export_classifier(trained, target, ["fp32"], texts=held_texts[:40])
    classifier = Classifier(target, ONNX_FILES["fp32"])
    predictions = [prediction.label for prediction in classifier.classify(held_texts)]
    expected = [labels[index] for index in held_out]
    return float(f1_score(expected, predictions, labels=sorted(set(expected)), average="macro"))
