"""The numbers of a quantization study as tables, on the page and as files."""

from __future__ import annotations

from collections.abc import Sequence

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import QuantScore
from charprobe_lite.eval.report.tables import Record, Table
from charprobe_lite.eval.stats.bootstrap import Estimate

FIDELITY = ("perplexity", "ratio", "kl_mean", "kl_median", "kl_p99", "top1")


def quant_tables(study: QuantStudy) -> list[Table]:
    """The tables that the study has numbers for."""
    made = [
        Table("quant-types", "", "What each file costs", _costs(study.quants)),
        Table("quant-size", "quant-size", "Quality against size", _levels(study)),
        Table("quant-difference", "quant-difference", "Differences from F16", _differences(study)),
        Table("quant-kl", "quant-kl", "Fidelity to F16 by kind of text", _fidelity(study.quants)),
        Table("quant-health", "", "Tool-call health", _health(study.quants)),
        Table("quant-trend", "", "Does it fall with the bits? (Page's test)", _trends(study)),
        Table("quant-contrast", "", "Does character fall faster than capability?", _rates(study)),
        Table(
            "quant-correlation",
            "",
            "Rank correlation of KL divergence with loss of character",
            _correlations(study),
        ),
        Table("quant-classifier", "", "The classifier's own quantization", _classifier(study)),
    ]
    return [table for table in made if table.records]


def _costs(quants: Sequence[QuantScore]) -> list[Record]:
    return [
        {
            **_file(each),
            "bits_per_weight": each.record.bits_per_weight,
            "megabytes": each.record.bytes / 1e6,
            "weights_stored_as": ", ".join(_shares(each)),
            "tokens_per_second": each.record.tokens_per_second,
            "peak_megabytes": each.record.peak_bytes and each.record.peak_bytes / 1e6,
        }
        for each in quants
    ]


def _shares(quant: QuantScore) -> list[str]:
    """The real types of the weights with their shares, the most frequent first."""
    types = quant.record.tensor_types
    total = sum(types.values())
    ordered = sorted(types.items(), key=lambda pair: (-pair[1], pair[0]))
    return [f"{name} {count / total:.0%}" for name, count in ordered]


def _levels(study: QuantStudy) -> list[Record]:
    return [
        {
            **_file(quant),
            "condition": cell.condition,
            "bits_per_weight": quant.record.bits_per_weight,
            **_numbers(study.measure, level),
            "samples": cell.score.n,
        }
        for quant in study.quants
        for cell in quant.trained
        if (level := cell.score.headline) is not None
    ]


def _differences(study: QuantStudy) -> list[Record]:
    return [
        {
            **_file(quant),
            "condition": cell.condition,
            "measure": measure,
            **_numbers("difference", found.change),
            "inner_90_low": found.inner[0],
            "inner_90_high": found.inner[1],
            "margin": study.margin,
            "equivalent": _verdict(found.equivalent),
            "kept": _verdict(found.kept),
        }
        for quant in study.quants
        for cell in quant.trained
        for measure, found in ((study.measure, cell.difference), ("unforced", cell.work))
        if found is not None
    ]


def _fidelity(quants: Sequence[QuantScore]) -> list[Record]:
    records = []
    for quant in quants:
        for kind, score in quant.fidelity.items():
            record = {**_file(quant), "texts": kind, "tokens": score.tokens}
            for name in FIDELITY:
                record |= _numbers(name, getattr(score, name))
            records.append(record)
    return records


def _health(quants: Sequence[QuantScore]) -> list[Record]:
    records = []
    for quant in quants:
        for cell in quant.trained:
            for name, quality in cell.health.items():
                change = quality.difference.change if quality.difference else None
                records.append(
                    {
                        **_file(quant),
                        "condition": cell.condition,
                        "what": name,
                        **_numbers("value", quality.value),
                        **_numbers("difference", change),
                    }
                )
    return records


def _trends(study: QuantStudy) -> list[Record]:
    return [each.as_json() for each in study.trends]


def _rates(study: QuantStudy) -> list[Record]:
    return [
        {
            "lora": each.lora,
            "condition": each.condition,
            "capability": each.capability,
            "of": each.of,
            **_numbers("character_per_halving", each.character.standardised),
            **_numbers("capability_per_halving", each.other.standardised),
            **_numbers("difference", each.ahead),
            "character_falls_faster": _verdict(each.faster),
        }
        for each in study.contrasts
    ]


def _correlations(study: QuantStudy) -> list[Record]:
    return [
        {
            "texts": each.text,
            "condition": each.condition,
            "files": each.points,
            **_numbers("correlation", each.correlation),
        }
        for each in study.kl
    ]


def _classifier(study: QuantStudy) -> list[Record]:
    found = study.classifier
    if found is None:
        return []
    return [
        {
            "texts": found.n,
            **_numbers("agreement", found.agreement),
            **_numbers("kappa", found.kappa),
            **_numbers("macro_f1_difference", found.f1.change),
        }
    ]


def _file(quant: QuantScore) -> Record:
    return {"quant": quant.record.quant, "lora": quant.record.lora}


def _numbers(name: str, estimate: Estimate | None) -> Record:
    """A value with the ends of its interval, as `tables` names them."""
    prefix = "" if name == "value" else f"{name}_"
    value, low, high = (estimate.value, *estimate.ends) if estimate else (None, None, None)
    return {name: value, f"{prefix}low": low, f"{prefix}high": high}


def _verdict(verdict: bool | None) -> str:
    return {True: "yes", False: "no", None: "not decided"}[verdict]
