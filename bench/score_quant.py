"""How often the verdicts of a quantization study are wrong where the truth is known.

    python bench/score.py --part quant --studies 400

Simulates studies whose files lose a known part of their character and work, lets the project score
them, and prints the share of studies with a false verdict (nominal 5%), or with an interval that
holds the truth (nominal 95%).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from simulation import Claim

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.quant.fidelity_score import TextFidelity
from charprobe_lite.eval.quant.findings import QuantStudy, find
from charprobe_lite.eval.quant.score import QuantRecord, compare_quants, score_quant
from charprobe_lite.eval.scores.cells import CellScore
from charprobe_lite.eval.stats.trend import rank_interval
from charprobe_lite.models.defaults import MARGIN
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

NAMES = PERSONAS[:4]
ITEMS = {"chat": 40, "agentic_email": 25}
BITS = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q5_1": 6.5,
    "Q5_0": 6.1,
    "Q4_1": 5.7,
    "IQ4_NL": 5.4,
    "Q4_0": 5.3,
}
"""Bits per weight of the kit's files."""
WORK = "unforced"
LEVELS = {"chat": 0.95, "agentic_email": 0.6, WORK: 0.9}
"""F16's macro-F1 in either condition, and the emails that its agents send unforced."""
STEEPEST = {"proportion": 0.35, "log_odds": 1.2}
"""What the smallest file loses, as a part of F16's level or in log odds."""
WIDE = 0.15
"""The margin where verdicts on it are counted: 25 scenarios can decide nothing about 0.03."""
ITEM, TYPE_ITEM = 0.3, 0.1
"""Parts of the variance that items have in all files, and in one file alone."""
WAYS = ("runtime", "merged")
RESAMPLES, MANY = 400, 4000
"""Resamples; many where Holm's correction looks at the far tail."""
Levels = Mapping[str, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What to simulate: each type's levels, and the ways to use an adapter.

    ``conditions`` are those that are run; ``divergence`` is each type's mean KL divergence.
    """

    levels: Mapping[str, Levels]
    ways: Sequence[str] = ("runtime",)
    conditions: Sequence[str] = tuple(ITEMS)
    divergence: Mapping[str, float] | None = None
    margin: float = MARGIN
    resamples: int = RESAMPLES


def successes(chance: float, common: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of (items, personas) succeed: each with ``chance``, items alike in all files.

    A Gaussian copula, so that the chance over all items is exact.
    """
    shape = (len(common), len(NAMES))
    own = np.sqrt(TYPE_ITEM) * rng.normal(size=(len(common), 1))
    noise = np.sqrt(1 - ITEM - TYPE_ITEM) * rng.normal(size=shape)
    return np.asarray(np.sqrt(ITEM) * common[:, None] + own + noise < norm.ppf(chance))


def rows(cell: Cell, levels: Levels, common: Mapping[str, Floats], seed: list[int]) -> list[Row]:
    """A cell in which macro-F1 and the share of unforced emails have the ``levels``."""
    rng = np.random.default_rng(seed)
    condition, level = cell.condition, levels[cell.condition]
    # misses are labelled neutral, so F1 is 2 r / (1 + r) of a recall of r
    recognised = successes(level / (2 - level), common[condition], rng)
    agentic = condition == "agentic_email"
    unforced = successes(levels[WORK], common[WORK], rng) if agentic else recognised
    outcome = "sent" if agentic else "answered"
    return [
        Row(
            *(cell, persona, f"{condition}-{item}", 0, 0, outcome),
            *(agentic and not unforced[item, n], "x"),
            *(persona if recognised[item, n] else NEUTRAL, None),
        )
        for item in range(len(recognised))
        for n, persona in enumerate(NAMES)
    ]


def fidelity(mean: float, rng: np.random.Generator) -> dict[str, TextFidelity]:
    """Ten texts with KL divergences of this mean."""
    texts = {}
    for number in range(10):
        kl = rng.exponential(mean, 20) if mean else np.zeros(20)
        texts[f"text-{number}"] = TextFidelity(1 + kl, kl, kl < mean)
    return texts


def simulate(setting: Setting, seed: int) -> QuantStudy:
    """One study, scored by the project."""
    rng = np.random.default_rng(seed)
    common = {name: rng.normal(size=ITEMS[name]) for name in ITEMS}
    common[WORK] = rng.normal(size=ITEMS["agentic_email"])
    records = []
    for number, (quant, levels) in enumerate(setting.levels.items()):
        for way, lora in enumerate(setting.ways):
            cells = [Cell("kit", "full", name, quant, lora=lora) for name in setting.conditions]
            parts = [
                rows(cell, levels, common, [seed, 1 + number, way, 1 + place])
                for place, cell in enumerate(cells)
            ]
            size, kl = int(1e7 * BITS[quant]), setting.divergence
            texts = {} if kl is None else {"held_out": fidelity(kl[quant], rng)}
            everything = [row for part in parts for row in part]
            records.append(
                QuantRecord(quant, lora, BITS[quant], size, {quant: 1}, everything, {}, texts)
            )
    metrics = compare_quants(records, NAMES, setting.margin, seed, setting.resamples)
    scored = [
        score_quant(record, metrics, [plain_score(cell) for cell in record.cells])
        for record in metrics.records
    ]
    return find(metrics, scored)


def plain_score(cell: Cell) -> CellScore:
    """The score of a cell itself, which no claim here depends on."""
    counts = {"n": 0, "started": 0, "yield_": None, "forced": None}
    return CellScore(**asdict(cell), persona=",".join(NAMES), **counts)


def rates(
    setting: Callable[[int], Setting], studies: int, **claims: Callable[[QuantStudy], bool]
) -> dict[str, float]:
    """In what share of simulated studies each of ``claims`` is made."""
    made = dict.fromkeys(claims, 0)
    with ProcessPoolExecutor() as pool:
        for study in pool.map(simulate, map(setting, range(studies)), range(studies), chunksize=4):
            for name, claim in claims.items():
                made[name] += claim(study)
    return {name: count / studies for name, count in made.items()}


def fixed(setting: Setting) -> Callable[[int], Setting]:
    """The same setting for every study."""
    return lambda _: setting


def falling(scale: str) -> Setting:
    """Character and work that lose the same on one scale, in proportion to log2(bits)."""
    parts = np.log2(BITS["F16"] / np.array([*BITS.values()]))
    losses = STEEPEST[scale] * parts / parts.max()
    levels = {}
    for quant, loss in zip(BITS, losses, strict=True):
        levels[quant] = {
            name: level * (1 - loss)
            if scale == "proportion"
            else 1 / (1 + np.exp(-(np.log(level / (1 - level)) - loss)))
            for name, level in LEVELS.items()
        }
    return Setting(levels)


def at_margin(ways: int, where: Sequence[str], conditions: Sequence[str] = tuple(ITEMS)) -> Setting:
    """Every file loses exactly the margin ``where`` says, and nothing elsewhere."""
    lower = {name: level - WIDE * (name in where) for name, level in LEVELS.items()}
    levels = {quant: LEVELS if quant == "F16" else lower for quant in BITS}
    return Setting(levels, WAYS[:ways], conditions, margin=WIDE, resamples=MANY)


def unrelated(ways: int) -> Callable[[int], Setting]:
    """Each type has a loss and a KL divergence that have nothing to do with each other."""

    def setting(seed: int) -> Setting:
        rng = np.random.default_rng([seed, 1])
        levels, divergence = {"F16": LEVELS}, {"F16": 0.0}
        for quant in list(BITS)[1:]:
            levels[quant] = {**LEVELS, "chat": LEVELS["chat"] - rng.uniform(0, 0.3)}
            divergence[quant] = rng.uniform(0.01, 1)
        return Setting(levels, WAYS[:ways], ("chat",), divergence)

    return setting


def any_verdict(study: QuantStudy) -> bool:
    """Whether a contrast has a verdict."""
    return any(contrast.falls_faster is not None for contrast in study.contrasts)


def any_on(scale: str) -> Callable[[QuantStudy], bool]:
    """Whether a contrast would have one on ``scale`` alone."""

    def excludes(study: QuantStudy) -> bool:
        ends = [contrast.differences[scale].ends for contrast in study.contrasts]
        return any(low > 0 or high < 0 for low, high in ends)

    return excludes


def holds(scale: str) -> Callable[[QuantStudy], bool]:
    """Whether the first contrast's interval holds a difference of 0."""

    def held(study: QuantStudy) -> bool:
        low, high = study.contrasts[0].differences[scale].ends
        return low <= 0 <= high

    return held


def any_trend(study: QuantStudy) -> bool:
    """Whether a metric is said to fall."""
    return any(trend.p_holm is not None and trend.p_holm <= 0.05 for trend in study.trends)


def any_difference(equivalent: bool) -> Callable[[QuantStudy], bool]:
    """Whether the character of a file is said to be the same, or not to be."""

    def said(study: QuantStudy) -> bool:
        differences = [cell.difference for quant in study.quants for cell in quant.cells]
        return any(each.equivalent is equivalent for each in differences if each)

    return said


def correlates(by: str) -> Callable[[QuantStudy], bool]:
    """Whether the correlation's interval excludes 0, with an n of files or types."""

    def said(study: QuantStudy) -> bool:
        [kl] = study.kl_correlations
        n = kl.points if by == "files" else kl.types
        low, high = rank_interval(kl.correlation.value, n).ends
        return low > 0 or high < 0

    return said


def claims(studies: int) -> Iterator[Claim]:
    """Every claim with its nominal and its measured rates."""
    yield from contrast_claims(studies)
    yield from margin_claims(studies)
    yield from correlation_claims(studies)
    alike = Setting(dict.fromkeys(BITS, LEVELS))
    shares = rates(fixed(alike), studies, falls=any_trend)
    yield Claim("a metric falls with the bits", 0.05, {"no loss, 6 files": shares["falls"]})


def correlation_claims(studies: int) -> Iterator[Claim]:
    """KL divergence and loss that are unrelated; the interval's n is that of types or of files."""
    both = {
        f"{6 * ways} files": rates(
            unrelated(ways), studies, types=correlates("types"), files=correlates("files")
        )
        for ways in (1, 2)
    }
    for n in ("types", "files"):
        yield Claim(f"KL divergence correlates with loss, n = {n}", 0.05, _column(both, n))


def contrast_claims(studies: int) -> Iterator[Claim]:
    """Which falls faster, where both lose the same on one scale."""
    measured = {}
    for scale in STEEPEST:
        others = {each: any_on(each) for each in ("standardised", *STEEPEST)}
        shares = rates(
            fixed(falling(scale)), studies, verdict=any_verdict, held=holds(scale), **others
        )
        measured[f"equal {scale.replace('_', ' ')} losses"] = shares
    yield Claim("work or character falls faster", 0.05, _column(measured, "verdict"))
    for scale in ("standardised", *STEEPEST):
        yield Claim(f"the same on one scale alone: {scale}", 0.05, _column(measured, scale))
    yield Claim("interval of the scale holds 0", 0.95, _column(measured, "held"))


def margin_claims(studies: int) -> Iterator[Claim]:
    """What is said of files that lose exactly the margin."""
    everywhere, chat = {}, {}
    for ways in (1, 2):
        shares = rates(
            fixed(at_margin(ways, tuple(ITEMS))),
            studies,
            equivalent=any_difference(True),
            different=any_difference(False),
            recommended=lambda study: bool(study.order.passed),
        )
        everywhere[f"{6 * ways} files, 2 conditions"] = shares
        only = rates(
            fixed(at_margin(ways, ("chat",), ("chat",))),
            studies,
            equivalent=any_difference(True),
            recommended=lambda study: bool(study.order.passed),
        )
        chat[f"{6 * ways} files, chat alone"] = only
    both = everywhere | chat
    yield Claim("a file is recommended", 0.05, _column(both, "recommended"))
    yield Claim("a file is equivalent", 0.05, _column(both, "equivalent"))
    yield Claim("a file is different", 0.05, _column(everywhere, "different"))


def _column(measured: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    return {setting: shares[name] for setting, shares in measured.items()}
