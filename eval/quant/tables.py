"""The numbers of a quantization study as tables, for a terminal, a page and files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as TerminalTable

from charprobe_lite.eval.quant.findings import CAPABILITIES, Contrast, QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore, document
from charprobe_lite.eval.scores.terminal import TOO_FEW
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.metrics import FEWEST_CLUSTERS, PairedDifference
from charprobe_lite.eval.terminal_table import plain_table

Record = dict[str, Any]
FINDINGS = ("quant-trend", "quant-contrast", "quant-correlation", "quant-classifier")
"""The tables of `quant_tables` that are narrow enough as they are."""
SCALE_NAMES = {
    "standardised": "standard deviations",
    "proportion": "proportion of F16's",
    "log_odds": "log odds",
}


@dataclass(frozen=True)
class Table:
    """Records with the same fields."""

    name: str
    caption: str
    records: list[Record]


def quant_tables(study: QuantStudy) -> list[Table]:
    """The tables, next to those of the figures, that the study has numbers for."""
    tables = [
        Table("quant-types", "What each file costs", _costs(study.quants)),
        Table("quant-health", "Tool-call health", _health(study)),
        Table("quant-trend", "Does it fall with the bits? (Page's test)", document(study.trends)),
        Table("quant-contrast", "Does character fall faster than capability?", _rates(study)),
        Table(
            "quant-correlation",
            "Rank correlation of KL divergence with loss of character",
            _correlations(study),
        ),
        Table("quant-classifier", "The classifier's own quantization", _classifier(study)),
    ]
    return [table for table in tables if table.records]


def terminal_tables(study: QuantStudy) -> Iterator[TerminalTable]:
    """Files, fidelity, cells, then the findings across types; empty ones are left out."""
    for table in (_costs_table(study.quants), _fidelity_table(study.quants), _cells_table(study)):
        if table.row_count:
            yield table
    for numbers in quant_tables(study):
        if numbers.name in FINDINGS:
            records = readable(numbers.records)
            table = plain_table(numbers.caption, [*records[0]], [], wrap=records[0])
            for record in records:
                table.add_row(*record.values())
            yield table


def _costs_table(quants: Sequence[QuantScore]) -> TerminalTable:
    numbers = ["bits per weight", "MB", "tokens/s", "peak MB"]
    table = plain_table("files", _file_names(quants), numbers)
    for quant in quants:
        record = quant.record
        speed, peak = record.tokens_per_second, record.peak_bytes
        table.add_row(
            *_file(quant, quants),
            *(f"{record.bits_per_weight:.2f}", f"{record.bytes / 1e6:.0f}"),
            *("-" if speed is None else f"{speed:.0f}", f"{peak / 1e6:.0f}" if peak else "-"),
        )
    return table


def _fidelity_table(quants: Sequence[QuantScore]) -> TerminalTable:
    numbers = ["tokens", "perplexity", "mean KL", "median KL", "99% KL", "same top"]
    table = plain_table("fidelity to F16, nats per token", [*_file_names(quants), "texts"], numbers)
    for quant in quants:
        for kind, score in quant.fidelity.items():
            values = (score.perplexity, score.kl_mean, score.kl_median, score.kl_p99)
            table.add_row(
                *(*_file(quant, quants), kind, str(score.tokens)),
                *(rounded(value.value) for value in values),
                f"{score.top1.value:.1%}",
            )
    return table


def _cells_table(study: QuantStudy) -> TerminalTable:
    metrics = map(readable_name, (study.metric, *CAPABILITIES))
    columns = [next(metrics), "minus F16", "± (90%)", f"within {study.margin:g}"]
    numbers = ["texts", "n", *columns, *metrics]
    table = plain_table(
        "character and tool calls", [*_file_names(study.quants), "condition"], numbers
    )
    for quant, cell in trained_cells(study):
        difference, health = cell.difference, cell.health
        power = difference.power if difference else None
        table.add_row(
            *(*_file(quant, study.quants), cell.condition, str(cell.score.n)),
            *(str(power.n) if power else "-", _interval(cell.score.headline)),
            _interval(difference.change if difference else None, "+")
            + ("*" if difference and difference.personas is not None else ""),
            f"{power.half_width:.3f}" if power else "-",
            equivalence_text(difference) if difference else "-",
            *(f"{health[x].value.value:.0%}" if x in health else "-" for x in CAPABILITIES),
        )
    return table


def persona_notes(study: QuantStudy) -> list[str]:
    """What a ``*`` of the table of cells is over; a line each."""
    return [
        f"* {quant.name}, {cell.condition}: minus F16 over {', '.join(difference.personas)}; one "
        "of the two has no classified text of the other personas"
        for quant, cell in trained_cells(study)
        if (difference := cell.difference) and difference.personas is not None
    ]


def _file_names(quants: Sequence[QuantScore]) -> list[str]:
    """The columns that tell files apart; that of the cache where there is more than one type."""
    several = len({quant.record.kv_type for quant in quants}) > 1
    return ["quant", "lora", *(["KV cache"] if several else [])]


def _file(quant: QuantScore, quants: Sequence[QuantScore]) -> list[str]:
    values = [quant.record.quant, quant.record.lora or "-", quant.record.kv_type]
    return values[: len(_file_names(quants))]


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{number:{sign}.3f}" for number in (estimate.value, *estimate.ends))
    return f"{value} [{low}, {high}]"


def readable(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Records as people read them: rounded, an interval next to its value."""
    return [
        {
            readable_name(name): _readable(record, name)
            for name in record
            if not name.endswith(("low", "high"))
        }
        for record in records
    ]


def readable_name(name: str) -> str:
    """A field or metric for people."""
    return name.replace("macro_f1", "macro-F1").replace("_", " ")


def rounded(value: float) -> str:
    """Three decimals, or two digits where that would leave none (KL divergences, p-values)."""
    return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"


def _costs(quants: Sequence[QuantScore]) -> list[Record]:
    return [
        {
            **file_columns(quant),
            "bits_per_weight": quant.record.bits_per_weight,
            "megabytes": quant.record.bytes / 1e6,
            "weights_stored_as": _shares(quant.record.tensor_types),
            "tokens_per_second": quant.record.tokens_per_second,
            "peak_megabytes": quant.record.peak_bytes and quant.record.peak_bytes / 1e6,
        }
        for quant in quants
    ]


def _shares(types: Mapping[str, int]) -> str:
    """The real types of the weights with their shares, the most frequent first."""
    ordered = sorted(types.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count / sum(types.values()):.0%}" for name, count in ordered)


def trained_cells(study: QuantStudy) -> Iterator[tuple[QuantScore, CellQuality]]:
    """The cells of each file's most trained stage."""
    return ((quant, cell) for quant in study.quants for cell in quant.trained_cells)


def _health(study: QuantStudy) -> list[Record]:
    return [
        {
            **file_columns(quant),
            "condition": cell.condition,
            "what": name,
            **estimate_columns("value", estimate.value),
            **estimate_columns("difference", difference.change if difference else None),
        }
        for quant, cell in trained_cells(study)
        for name, estimate in cell.health.items()
        for difference in [estimate.difference]
    ]


def _rates(study: QuantStudy) -> list[Record]:
    """A record per contrast and scale, each with the verdict of all scales."""
    return [
        {
            **{name: getattr(contrast, name) for name in ("lora", "condition", "capability", "of")},
            "scale": SCALE_NAMES[scale],
            **estimate_columns("character_per_halving", getattr(contrast.character, scale)),
            **estimate_columns("capability_per_halving", getattr(contrast.other, scale)),
            **estimate_columns("difference", difference),
            "p_holm": contrast.p_holm,
            "character_falls_faster": _contrast_text(contrast),
        }
        for contrast in study.contrasts
        for scale, difference in contrast.differences.items()
    ]


def _contrast_text(contrast: Contrast) -> str:
    """The verdict, which needs all scales."""
    return verdict_text(contrast.falls_faster) if contrast.p is not None else "no verdict"


def _correlations(study: QuantStudy) -> list[Record]:
    return [
        {
            "texts": kl.text,
            "condition": kl.condition,
            "files": kl.points,
            "types": kl.types,
            **estimate_columns("correlation", kl.correlation),
            "without_one_type": " to ".join(map(rounded, kl.without_one)),
        }
        for kl in study.kl_correlations
    ]


def _classifier(study: QuantStudy) -> list[Record]:
    return [
        {
            "texts": agreement.n,
            **estimate_columns("agreement", agreement.agreement),
            **estimate_columns("kappa", agreement.kappa),
            **estimate_columns("macro_f1_difference", agreement.macro_f1.change),
        }
        for agreement in filter(None, [study.classifier])
    ]


def file_columns(quant: QuantScore) -> Record:
    """The columns that tell a file from others."""
    return {"quant": quant.record.label, "lora": quant.record.lora}


def estimate_columns(name: str, estimate: Estimate | None) -> Record:
    """A value with the ends of its interval, as `readable` expects them."""
    prefix = "" if name == "value" else f"{name}_"
    value, low, high = (estimate.value, *estimate.ends) if estimate else (None, None, None)
    return {name: value, f"{prefix}low": low, f"{prefix}high": high}


def equivalence_text(difference: PairedDifference) -> str:
    """A verdict on equivalence; where none is possible, how many prompts or scenarios it takes."""
    verdict, power = difference.equivalent, difference.power
    if difference.clusters < FEWEST_CLUSTERS:
        return f"{TOO_FEW}: n = {difference.clusters}"
    if verdict is None and power and not power.decidable:
        return f"cannot be decided with n < {power.needed}"
    return {True: "equivalent", False: "different", None: "not decided"}[verdict]


def verdict_text(verdict: bool | None) -> str:
    """A verdict in a table."""
    return {True: "yes", False: "no", None: "not decided"}[verdict]


def _readable(record: Mapping[str, Any], name: str) -> str:
    prefix = "" if name in ("value", "right") else f"{name}_"
    value, low, high = (_text(record.get(key)) for key in (name, f"{prefix}low", f"{prefix}high"))
    return value if "-" in (low, high) else f"{value} [{low}, {high}]"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return rounded(value) if isinstance(value, float) else str(value)
