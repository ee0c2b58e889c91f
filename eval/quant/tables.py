"""The numbers of a quantization study as tables, on the page and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import QuantScore
from charprobe_lite.eval.stats.bootstrap import Estimate

Record = dict[str, Any]
FIDELITY = ("perplexity", "ratio", "kl_mean", "kl_median", "kl_p99", "top1")


@dataclass(frozen=True)
class Table:
    """Records with the same fields; ``figure`` is the one that shows them, "" for none."""

    name: str
    figure: str
    caption: str
    records: list[Record]


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
        for cell in quant.trained_cells
        if (level := cell.score.headline) is not None
    ]


def _differences(study: QuantStudy) -> list[Record]:
    return [
        {
            **_file(quant),
            "condition": cell.condition,
            "measure": measure,
            **_numbers("difference", found.change),
            "inner_90_low": found.interval_90[0],
            "inner_90_high": found.interval_90[1],
            "margin": study.margin,
            "equivalent": _verdict(found.equivalent),
            "kept": _verdict(found.non_inferior),
        }
        for quant in study.quants
        for cell in quant.trained_cells
        for measure, found in ((study.measure, cell.difference), ("unforced", cell.unforced))
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
        for cell in quant.trained_cells:
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
            "character_falls_faster": _verdict(each.falls_faster),
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


def readable(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Records as people read them: rounded, and an interval's ends behind its value."""
    return [
        {
            name.replace("macro_f1", "macro-F1").replace("_", " "): _shown(value)
            + _interval(record, name)
            for name, value in record.items()
            if not name.endswith(("low", "high"))
        }
        for record in records
    ]


def _interval(record: Mapping[str, Any], name: str) -> str:
    prefix = "" if name in ("value", "right") else f"{name}_"
    low, high = record.get(f"{prefix}low"), record.get(f"{prefix}high")
    return "" if low is None or high is None else f" [{_shown(low)}, {_shown(high)}]"


def _shown(value: Any) -> str:
    """A table's value as people read it."""
    if value is None:
        return "-"
    return rounded(value) if isinstance(value, float) else str(value)


def rounded(value: float) -> str:
    """Three decimals, or two digits where that would leave none (KL divergences, p-values)."""
    return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
