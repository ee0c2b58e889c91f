"""The classifier in full precision against its quantized form, on the same texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from charprobe_lite.eval.quant.families import alone
from charprobe_lite.eval.stats.bootstrap import CLUSTER_RESAMPLES, Estimate
from charprobe_lite.eval.stats.classification import Labels, accuracies, kappas, macro_f1s
from charprobe_lite.eval.stats.metrics import (
    PairedDifference,
    ResampledMetrics,
    label_metric,
    label_names,
)


@dataclass(frozen=True)
class ClassifierAgreement:
    """The classifier in full precision and quantized, on the same ``n`` texts.

    ``agreement``: share of texts with the same label; ``kappa`` corrects it for chance, None where
    both give one label to every text. ``macro_f1`` is that of the quantized one minus the other's.
    """

    n: int
    agreement: Estimate
    kappa: Estimate | None
    macro_f1: PairedDifference


def compare_classifiers(
    full: Labels,
    quantized: Sequence[str],
    margin: float | None = None,
    seed: int = 0,
    resamples: int = CLUSTER_RESAMPLES,
) -> ClassifierAgreement:
    """``full``: true labels, fp32's predictions and clusters; ``quantized``: int8's predictions.

    Raises ValueError for lists of different lengths or without a text.
    """
    if not full.true:
        raise ValueError("no text to compare the classifiers on")
    n = len(full.true)
    other = Labels(full.true, quantized, full.cluster)
    both = Labels(full.predicted, quantized, full.cluster)
    resampled = ResampledMetrics(
        {
            "full": label_metric(full, label_names([full]), macro_f1s, n),
            "quantized": label_metric(other, label_names([other]), macro_f1s, n),
            "agreement": label_metric(both, label_names([both]), accuracies, n),
            "kappa": label_metric(both, label_names([both]), kappas),
        },
        seed,
        resamples,
    )
    return ClassifierAgreement(
        n=n,
        agreement=resampled.estimate("agreement"),
        kappa=resampled.estimate("kappa") if "kappa" in resampled else None,
        macro_f1=alone(resampled.difference("quantized", "full", margin)),
    )
