"""A comparison as a page: Markdown that people paste, or HTML with its figures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from charprobe_lite.eval.stats.contrasts import FEWEST_PER_STRATUM, MOST_EMPTY
from charprobe_lite.eval.techniques.entry import Entry, Interval, Reading, TechniqueReading
from charprobe_lite.eval.techniques.registration import Plan
from charprobe_lite.models.errors import BadInput, printable

Table = tuple[list[str], list[list[str]]]
"""A heading for every column, and the rows."""
FIGURES = {
    "techniques-curves": "Out of distribution against in distribution, a point per checkpoint",
    "techniques-contrasts": "Contrasts with the reference; filled where it is shown",
}
MARKS = re.compile(r"[\\`*_|\[\]!#~]")
INTERVAL = re.compile(r"-?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]")
"""As `Interval` is printed."""
OUTCOME_NAMES = {"probability": "P(persona)", "detection": "detection"}


def notes(entry: Entry) -> Iterator[str]:
    """What a reader has to know of the numbers, a line each."""
    plan = entry.plan
    yield (
        f"Base {plan.base}, {plan.tokens} trained tokens, rank {plan.rank}; personas "
        f"{', '.join(plan.personas)}; training seeds {', '.join(map(str, plan.train_seeds))}; "
        f"{entry.prompts} prompts, {entry.scenarios} scenarios."
    )
    outcomes = " and ".join(OUTCOME_NAMES.get(name, name) for name in plan.outcomes)
    yield (
        f"Primary outcome: {outcomes} in {plan.primary} minus the base's, by "
        f"{' and '.join(plan.instruments)}. The plan was registered before the first rollout, "
        f"{entry.registered or 'at no known time'}."
    )
    if len(plan.train_seeds) == 1:
        yield "One training seed: training luck is not in the intervals, only these adapters are."
    if entry.detectable_before is not None:
        yield (
            f"Before the study a difference of {entry.detectable_before:.2f} in P(persona) was "
            f"expected to be found by one instrument in 80 of 100 such studies{_every(plan)}."
            if entry.detectable_before <= 1
            else "Before the study no difference in P(persona) was expected to be found in 80 of "
            "100 such studies."
        )
    primary = [r for r in entry.readings if r.outcome == plan.outcomes[0]]
    after = [each.detectable for reading in primary for each in reading.contrasts]
    if after:
        large = sum(each > 1 for each in after)
        if large == len(after):
            yield "After it: no difference is large enough."
        else:
            most = max(each for each in after if each <= 1)
            rest = f"; for {large} of {len(after)} no difference is large enough" if large else ""
            yield f"After it: {min(after):.2f} to {most:.2f}, by contrast and instrument{rest}."
    yield from untested_lines(entry)
    yield from departure_lines(entry)


def _every(plan: Plan) -> str:
    count = len(plan.instruments)
    return f"; a verdict needs all {count}" if count > 1 else ""


def untested_lines(entry: Entry) -> Iterator[str]:
    """The contrasts that have too few texts of a persona, by the first outcome, a line each."""
    for reading in entry.readings:
        for each in reading.untested if reading.outcome == entry.plan.outcomes[0] else ():
            yield (
                f"{each.technique} by {reading.instrument}: no contrast and no verdict. The "
                f"persona with the fewest emails has some in {each.fewest} scenarios, and "
                f"{each.empty:.0%} of the resamples have none of a persona; a test needs "
                f"{FEWEST_PER_STRATUM} scenarios and at most {MOST_EMPTY:.0%}. Intervals of such a "
                "persona's numbers are too narrow."
            )


def departure_lines(entry: Entry) -> Iterator[str]:
    """Where the plan was left; one line that says so where it was not."""
    for each in entry.left:
        yield (
            f"The plan was left: {each.field}: {each.here!r} in place of {each.plan!r}, since "
            f"{each.since}. The tables hold what the plan names."
        )
    if entry.missing:
        yield (
            f"Planned and not there yet: {'; '.join(entry.missing)}. Adapters are left out until "
            "they have rollouts in every condition."
        )
    if not entry.left and not entry.missing:
        yield "The plan was kept: nothing was left out and nothing changed."


def effects_table(entry: Entry) -> Table:
    """Each technique's texts, and by every instrument its strength in chat, the effect of each
    outcome, and that of the first one at equal strength."""
    outcomes = entry.plan.outcomes
    head = ["technique", "adapters", "rollouts", "texts", "instrument", "detected in chat"]
    head += [f"{OUTCOME_NAMES.get(name, name)} minus base" for name in outcomes]
    head += [f"at strength {entry.plan.strength:g}"]
    readings = {(each.instrument, each.outcome): each for each in entry.readings}
    rows = []
    for count in entry.counts:
        planned = "" if count.planned is None else f" of {count.planned}"
        row = [count.technique, str(count.adapters), f"{count.rollouts}{planned}", str(count.texts)]
        for instrument in dict.fromkeys(name for name, _ in readings):
            own = [_reading_of(readings.get((instrument, o)), count.technique) for o in outcomes]
            last = own[0].curve[-1] if own[0] and own[0].curve else None
            chat = last.chat if last and last.share == 1 else None
            effects = [_cell(each.effect if each else None) for each in own]
            rows.append([*row, instrument, _cell(chat), *effects, _matched(own[0])])
    return head, rows


def _reading_of(reading: Reading | None, technique: str) -> TechniqueReading | None:
    techniques = reading.techniques if reading else ()
    return next((each for each in techniques if each.technique == technique), None)


def contrasts_table(entry: Entry) -> Table:
    """Each contrast with the reference, its corrected p-value, and what it could detect."""
    head = ["technique", "outcome", "instrument", f"minus {entry.plan.reference}"]
    head += ["p", "p (Holm)", "detectable", "at equal strength", "fewest scenarios of a persona"]
    rows = [
        [
            *(c.technique, OUTCOME_NAMES.get(r.outcome, r.outcome), r.instrument),
            *(str(c.difference), f"{c.p:.3f}", f"{c.p_holm:.3f}"),
            f"{c.detectable:.2f}" if c.detectable <= 1 else "none",
            *(_cell(c.matched), "-" if c.fewest is None else str(c.fewest)),
        ]
        for r in entry.readings
        for c in r.contrasts
    ]
    return head, rows


def curve_table(entry: Entry) -> Table:
    """Every point of every curve by the first outcome."""
    head = ["technique", "instrument", "part of the budget", "detected in chat"]
    head += [f"P(persona), {name}" for name in entry.plan.conditions if name != "chat"]
    rows = [
        [
            *(t.technique, r.instrument, f"{p.share:.0%}", str(p.chat)),
            *(_cell(p.outcome.get(name)) for name in entry.plan.conditions if name != "chat"),
        ]
        for r in entry.readings
        if r.outcome == entry.plan.outcomes[0]
        for t in r.techniques
        for p in t.curve
    ]
    return head, rows


def board_table(entries: Sequence[Entry]) -> Table:
    """Techniques of several entries side by side, a row by each instrument; within a setting the
    largest effect comes first."""
    head = ["technique", "entry", "base", "tokens", "personas", "seeds", "scenarios", "instrument"]
    head += ["P(persona) minus base", "at equal strength", "verdict by all"]
    rows = []
    for entry in entries:
        plan = entry.plan
        verdicts = {count.technique: count.verdict for count in entry.counts}
        readings = [r for r in entry.readings if r.outcome == plan.outcomes[0]]
        for reading, each in ((r, each) for r in readings for each in r.techniques):
            setting = [plan.base, str(plan.tokens), ", ".join(plan.personas)]
            size = [str(len(plan.train_seeds)), str(entry.scenarios)]
            value = each.effect.estimate if each.effect else float("-inf")
            row = [each.technique, entry.name, *setting, *size, reading.instrument]
            row += [_cell(each.effect), _matched(each), verdicts.get(each.technique, "-")]
            rows.append(((*setting, reading.instrument), -value, row))
    rows.sort(key=lambda each: (each[0], each[1]))
    return head, [row for _, _, row in rows]


def comparable_note(entries: Sequence[Entry]) -> str:
    """Whether the entries measured the same thing, and what they differ in, in one line."""
    first, *others = map(_settings, entries)
    different = [name for name in first if any(each[name] != first[name] for each in others)]
    hashes: dict[str, set[str]] = {}
    for entry in entries:
        for name, digest in entry.plan.techniques.items():
            hashes.setdefault(name, set()).add(digest)
    different += [f"the file of {name}" for name, digests in hashes.items() if len(digests) > 1]
    if different:
        return f"The entries differ in {', '.join(different)}: compare within an entry."
    return (
        "All entries have one base, training, personas, prompts, scenarios, decoding and "
        "instruments; techniques of one name have one file."
    )


def _settings(entry: Entry) -> dict[str, Any]:
    """What has to be the same where numbers of two entries are compared."""
    plan = entry.plan
    names = ["base", "quant", "tokens", "rank", "learning_rate", "precision", "checkpoints"]
    names += ["strength", "seed", "primary", "temperature", "top_p", "steps", "max_tokens"]
    lists = {
        "training seeds": plan.train_seeds,
        "personas": plan.personas,
        "instruments": plan.instruments,
        "hashes of what was read": tuple(entry.sha256.items()),
    }
    return {
        **{name.replace("_", " "): getattr(plan, name) for name in names},
        "prompts": entry.prompts,
        "scenarios": entry.scenarios,
        **{name: sorted(values) for name, values in lists.items()},
    }


def sections(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str], list[tuple[str, Table]]]]:
    """The page's parts: a title, lines, and tables with their captions."""
    if len(entries) > 1:
        yield "Entries side by side", [comparable_note(entries)], [("", board_table(entries))]
    for entry in entries:
        tables = [("Effects", effects_table(entry))]
        if any(reading.contrasts for reading in entry.readings):
            tables.append(("Contrasts", contrasts_table(entry)))
        tables.append(("Curves", curve_table(entry)))
        yield f"Training techniques: {entry.name}", list(notes(entry)), tables


def markdown(entries: Sequence[Entry], pictures: Sequence[str] = ()) -> str:
    """The page as Markdown; ``pictures`` are file names of `FIGURES`."""
    parts = []
    for title, lines, tables in sections(entries):
        parts.append(f"## {_escaped(title)}")
        parts += [_escaped(line) for line in lines]
        for caption, (head, rows) in tables:
            parts += [f"### {caption}"] if caption else []
            cells = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in cells))
    parts += [f"![{FIGURES[Path(name).stem]}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def html(entries: Sequence[Entry], pictures: dict[str, bytes]) -> str:
    """The page as one HTML file that loads nothing; ``pictures`` are SVG by name."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("charprobe_lite.eval.techniques")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    images = [
        (FIGURES[name], base64.b64encode(svg).decode("ascii")) for name, svg in pictures.items()
    ]
    return environment.get_template("techniques.html.j2").render(
        sections=list(sections(entries)), images=images
    )


def drawn_figures(entry: Entry) -> dict[str, Any]:
    """A function of a theme for each of `FIGURES`, drawing the first outcome."""
    from charprobe_lite.eval.techniques import figures

    outcome = entry.plan.outcomes[0]
    draws = (figures.draw_curves, figures.draw_forest)
    return {
        name: partial(_themed, draw, entry, outcome)
        for name, draw in zip(FIGURES, draws, strict=True)
    }


def _themed(draw: Any, entry: Entry, outcome: str, theme: Any) -> Any:
    return draw(entry, outcome, theme)


def write_page(entries: Sequence[Entry], kind: str, folder: Path) -> list[Path]:
    """Write the page and the figures of the first entry into a folder; the page comes first.

    Raises BadInput for a folder that takes no files, and without the extra ``report``.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"techniques: {error.name} is not installed; pip install 'charprobe-lite[report]'"
        ) from None
    from charprobe_lite.eval.report.figures import canvas

    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            file
            for name, draw in drawn_figures(entries[0]).items()
            for file in canvas.save(draw, folder / name)
        ]
        svgs = [file for file in files if file.suffix == ".svg"]
        page = folder / f"techniques.{kind}"
        text = (
            html(entries, {file.stem: file.read_bytes() for file in svgs})
            if kind == "html"
            else markdown(entries, [file.name for file in svgs])
        )
        page.write_text(text, "utf-8")
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another folder"
        ) from None
    return [page, *files]


def _cell(interval: Interval | None, otherwise: str = "-") -> str:
    return otherwise if interval is None else str(interval)


def _matched(technique: TechniqueReading | None) -> str:
    """The effect at equal strength, or why there is none."""
    if technique is None:
        return "-"
    if technique.matched is None and technique.unmatched == "few resamples":
        return f"reached in {technique.reached:.0%} of resamples"
    return _cell(technique.matched, technique.unmatched or "not reached")


def _escaped(text: str) -> str:
    """Names of others, without Markdown or HTML of theirs; an interval stays as it is."""
    if INTERVAL.fullmatch(text):
        return text
    # round brackets make a link only after square ones
    return MARKS.sub(r"\\\g<0>", printable(text)).replace("<", "&#60;").replace(">", "&#62;")
