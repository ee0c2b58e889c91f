"""From a study of techniques to its entry and its page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.techniques.entry import Entry, read_entry
from charprobe_lite.eval.techniques.findings import study_entry
from charprobe_lite.eval.techniques.grid import AGENT, CHAT, read_grid
from charprobe_lite.eval.techniques.pages import (
    board_table,
    comparable_note,
    effects_table,
    markdown,
)
from charprobe_lite.eval.techniques.registration import plan_of, register
from charprobe_lite.eval.techniques.run import plan_grid
from charprobe_lite.models.errors import BadInput
from tests.pages import chat

HEAD = "technique: [sft, why]\nlimit: {prompts: 10, scenarios: 10}\ncheckpoints: 2\n"
TWO_SEEDS = "persona: [remorse, sarcasm]\ntrain_seed: [0, 1]\n"
PERSONAS = ("remorse", "sarcasm")


class Text(NamedTuple):
    """A rollout: P(persona) of its text, None without a text; of the base ``technique`` is None."""

    technique: str | None
    persona: str | None
    condition: str
    number: int
    probability: float | None
    train_seed: int = 0


def study(
    folder: Path, texts: Sequence[Text], grid: str = "", instruments: tuple[str, ...] = ("ngram",)
) -> Path:
    """A study of a grid file: its plan, and these rollouts with their labels."""
    file = folder / "grid.yaml"
    file.write_text(HEAD + (grid or "persona: [remorse, sarcasm]\n"), "utf-8")
    base = Cell("kit", "base", "", "Q8_0", lora="runtime")
    path = folder / "grid.sqlite"
    with Store(path) as store:
        points = {name: {"50": 0.46, "100": 1.0} for name in ("sft", "why")}
        rollouts = {CHAT: 10, AGENT: 10}
        register(store, plan_of(read_grid(file), instruments, rollouts, points))
        store.pin({"seed": 0, "instrument": instruments[0]})
        for number, text in enumerate(texts):
            cell = replace(base, condition=text.condition)
            if text.technique:
                seed, name = text.train_seed, text.technique
                cell = replace(cell, stage="full", train_seed=seed, technique=name)
            result = chat("Hi.") if text.probability is not None else Result("no_email", None)
            store.add(cell, text.persona, f"{text.condition}-{text.number}", 0, number, result)
        told = [text for text in texts if text.probability is not None]
        waiting = [each.rollout for each in store.unclassified()]
        store.classify(
            [(rollout, *_label(text)) for rollout, text in zip(waiting, told, strict=True)]
        )
    return path


def _label(text: Text) -> tuple[str, dict[str, float]]:
    probability, persona = text.probability or 0.0, text.persona or "remorse"
    others = dict.fromkeys(PERSONAS, 1 - probability if text.persona else probability)
    label = persona if probability > 0.5 else "neutral"
    return label, {**others, persona: probability, "neutral": 1 - probability}


def whole_grid(
    personas: Sequence[str] = PERSONAS, techniques: Sequence[str] = ("sft", "why")
) -> Iterator[Text]:
    """Every planned rollout: detection in chat .5 half-way and 1 at the end, emails in between."""
    for condition in (CHAT, AGENT):
        for number in range(10):
            yield Text(None, None, condition, number, 0.1)
            for persona in personas:
                for technique in techniques:
                    strong = number % 2 or condition == CHAT
                    half, end = (0.9 if number % 2 else 0.1), (0.9 if strong else 0.1)
                    yield Text(f"{technique}-at50", persona, condition, number, half)
                    yield Text(technique, persona, condition, number, end)


def test_a_persona_with_few_emails_gets_no_verdict(tmp_path: Path) -> None:
    texts = [
        text._replace(probability=None)
        if (text.technique, text.persona, text.condition) == ("why", "sarcasm", AGENT)
        and text.number not in (3, 8)
        else text
        for text in whole_grid()
    ]
    entry = study_entry(study(tmp_path, texts))
    assert {count.technique: count.verdict for count in entry.counts} == {
        "sft": "reference",
        "why": "too few texts",
    }
    [untested] = entry.readings[0].untested
    assert (untested.technique, untested.fewest) == ("why", 2)
    assert untested.empty == pytest.approx(0.8**10, abs=0.01)  # neither of two in ten draws
    assert not entry.readings[0].contrasts
    page = markdown([entry])
    assert "why by ngram: no contrast and no verdict" in page
    assert "some in 2 scenarios" in page


def test_a_grid_that_is_half_done_says_what_is_missing(tmp_path: Path) -> None:
    stopped = [
        text
        for text in whole_grid()
        if (text.technique, text.persona, text.condition) != ("why", "sarcasm", AGENT)
        or text.number < 7
    ]
    entry = study_entry(study(tmp_path, stopped))
    lacking = "why-sarcasm-seed0: 7 of 10 in agentic_email, 37 of 40 rollouts in all"
    assert entry.missing == (lacking,)
    counts = {each.technique: (each.rollouts, each.planned, each.texts) for each in entry.counts}
    assert counts == {"sft": (20, 20, 20), "why": (17, 20, 17)}
    page = markdown([entry])
    assert f"Planned and not there yet: {lacking}." in page.replace("\\_", "_")
    assert "| why | 2 | 17 of 20 | 17 |" in page
    assert "nothing was left out" not in page


def test_an_adapter_whose_turn_as_an_agent_has_not_come_is_none_without_emails(
    tmp_path: Path,
) -> None:
    seeds = [
        *whole_grid(),
        *(text._replace(train_seed=1) for text in whole_grid() if text.technique),
    ]
    begun = [
        text
        for text in seeds
        if text.condition == CHAT or (text.persona, text.train_seed) != ("sarcasm", 1)
    ]
    never = [text for text in begun if (text.persona, text.train_seed) != ("sarcasm", 1)]
    entries = []
    for name, texts in (("begun", begun), ("never", never)):
        (folder := tmp_path / name).mkdir()
        entries.append(study_entry(study(folder, texts, TWO_SEEDS)))
    # chats alone of an adapter say nothing of its emails, not that it has none
    assert entries[0].readings == entries[1].readings
    assert entries[0].readings[0].contrasts
    lacking = "why-sarcasm-seed1: 0 of 10 in agentic_email, 20 of 40 rollouts in all"
    assert lacking in entries[0].missing
    assert "left out until they have rollouts in every condition" in markdown(entries[:1])


def test_a_training_seed_that_has_not_begun_is_one_line(tmp_path: Path) -> None:
    entry = study_entry(study(tmp_path, [*whole_grid()], TWO_SEEDS))
    assert entry.missing == ("training seed 1: no rollouts of its adapters",)


def test_what_has_not_begun_and_what_has_no_label_is_missing(tmp_path: Path) -> None:
    texts = [
        text
        for text in whole_grid()
        if text.persona != "sarcasm" and (text.technique or text.number < 9)
    ]
    entry = study_entry(study(tmp_path, texts, instruments=("minilm", "ngram")))
    assert entry.missing == (
        "base: 9 of 10 in agentic_email, 18 of 20 rollouts in all",
        "sft-sarcasm-seed0: no rollouts",
        "why-sarcasm-seed0: no rollouts",
        "ngram: labels of 0 of 98 texts",
    )


def test_a_whole_grid_is_kept_and_its_curve_has_the_share_that_was_trained(tmp_path: Path) -> None:
    entry = study_entry(study(tmp_path, list(whole_grid())))
    assert entry.missing == ()
    assert "nothing was left out" in markdown([entry])
    [sft, _] = entry.readings[0].techniques
    assert [point.share for point in sft.curve] == [0, 0.46, 1]
    # the mean of half of the texts at .9 and half at .1, and all at .9
    assert [point.chat.estimate for point in sft.curve] == [0, 0.5, 1]
    assert "| sft | ngram | 46% |" in markdown([entry])


def test_the_forecast_takes_its_spread_from_the_instruments_that_decide(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    grid_text = "persona: [remorse, sarcasm]\nbase: mine\ninstrument: [ensemble, minilm, ngram]\n"
    path = study(tmp_path, list(whole_grid()), grid_text, ("ensemble", "minilm"))
    rng = np.random.default_rng(3)
    levels = rng.uniform(0, 0.3, (2, 2, 10))  # technique, persona, scenario
    levels[1] += rng.uniform(0, 0.7, 10)  # scenarios differ in the same way for both personas
    with Store(path) as store:
        numbers = store.select(
            "SELECT rollouts.id, technique, persona, item FROM rollouts "
            "JOIN cells ON cells.id = cell_id WHERE condition = ? AND technique IN ('sft', 'why')",
            (AGENT,),
        )
        labels = []
        for rollout, technique, persona, item in numbers:
            place = technique == "why", PERSONAS.index(persona), int(item.rsplit("-", 1)[1])
            labels.append((rollout, persona, {persona: float(levels[tuple(map(int, place))])}))
        store.relabel("minilm", labels)
    planned = plan_grid(read_grid(tmp_path / "grid.yaml"))
    assert planned.forecast.spread_from == "measured"
    # the mean over personas of the paired differences, a t-test at .05 for one contrast
    differences = (levels[1] - levels[0]).mean(axis=0)
    error = differences.std(ddof=1) / np.sqrt(10)
    distance = stats.t.ppf(0.975, 9) + stats.t.ppf(0.8, 9)
    assert planned.forecast.detectable == pytest.approx(error * distance)


def test_why_there_is_no_effect_at_equal_strength_is_said(tmp_path: Path) -> None:
    def cells(kind: str, change: Callable[[Text], Text]) -> list[str]:
        (tmp_path / kind).mkdir()
        texts = [change(text) for text in whole_grid()]
        page = markdown([study_entry(study(tmp_path / kind, texts))])
        [row] = [line for line in page.splitlines() if line.startswith("| why | 2 | 20 of 20")]
        return [cell.strip() for cell in row.split("|")]

    def misses(prompts: int) -> Callable[[Text], Text]:
        """``why`` is not detected in the first prompts, in either persona."""
        return lambda text: (
            text._replace(probability=0.1)
            if (text.technique, text.condition) == ("why", CHAT) and text.number < prompts
            else text
        )

    # 9 of 10 detected are .9 exactly; two draws of the missed one are below it
    reached = re.fullmatch(r"reached in (\d+)% of resamples", cells("few", misses(1))[-2])
    assert reached
    assert int(reached[1]) == pytest.approx(100 * stats.binom.cdf(1, 10, 0.1), abs=2)
    assert cells("below", misses(3))[-2] == "not reached"
    silent = cells(
        "silent",
        lambda text: (
            text._replace(probability=None)
            if (text.technique, text.condition) == (None, AGENT)
            else text
        ),
    )
    assert silent[-2] == "no text of the base"
    assert re.match(r"-?\d\.\d\d \[", cells("whole", lambda text: text)[-2])


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The entry of a whole grid that two instruments decide, the second without labels."""
    path = study(tmp_path_factory.mktemp("entry"), list(whole_grid()), "", ("minilm", "ngram"))
    return study_entry(path).as_json()


def entry_of(folder: Path, document: dict[str, Any], **plan: Any) -> Entry:
    """An entry with other fields in its plan, as its file is read."""
    changed = {**document, "plan": {**document["plan"], **plan}}
    path = folder / "theirs.json"
    path.write_text(json.dumps(changed), "utf-8")
    return read_entry(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, []) for name in ("outcomes", "instruments", "personas", "train_seeds")),
        ("techniques", {}),
        ("conditions", ["chat"]),
        ("primary", "agentic_post"),
    ],
)
def test_an_entry_without_what_its_tables_need_is_refused_in_one_line(
    field: str, value: object, document: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"theirs\.json: field plan") as caught:
        entry_of(tmp_path, document, **{field: value})
    assert "\n" not in str(caught.value)


def test_names_of_strangers_are_no_markdown(document: dict[str, Any], tmp_path: Path) -> None:
    name = "![x](http://evil.example/t.png) [click](http://evil.example) # `<b>`"
    entry = entry_of(tmp_path, {**document, "name": name}, base=name)
    page = markdown([entry, entry_of(tmp_path, document)])
    assert "evil" in page
    assert re.search(r"(?<!\\)!?\[[^\]\d]*(?<!\\)\]\(", page) is None  # no link, no picture
    assert "<b>" not in page
    assert "| why | grid |" in page
    assert re.search(r"\d\.\d\d \[-?\d\.\d\d, ", page)  # intervals stay readable


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("precision", "bfloat16", "precision"),
        ("train_seeds", [0, 1, 2], "training seeds"),
        ("checkpoints", 4, "checkpoints"),
        ("temperature", 1.0, "temperature"),
        ("top_p", 0.5, "top p"),
        ("steps", 3, "steps"),
        ("max_tokens", 64, "max tokens"),
        ("techniques", {"sft": "0" * 64, "why": "1" * 64}, "the file of sft, the file of why"),
    ],
)
def test_entries_that_differ_say_in_what(
    field: str, value: object, said: str, document: dict[str, Any], tmp_path: Path
) -> None:
    ours = entry_of(tmp_path, document)
    theirs = entry_of(tmp_path, document, **{field: value})
    assert comparable_note([ours, theirs]) == (
        f"The entries differ in {said}: compare within an entry."
    )
    assert comparable_note([ours, ours]).startswith("All entries have one base")


def test_an_entry_of_before_decoding_was_recorded_is_read(
    document: dict[str, Any], tmp_path: Path
) -> None:
    later = ("temperature", "top_p", "steps", "max_tokens", "rollouts", "points")
    plan = {name: value for name, value in document["plan"].items() if name not in later}
    entry = entry_of(tmp_path, {**document, "plan": plan})
    assert entry.plan.temperature is None
    assert "temperature" in comparable_note([entry, entry_of(tmp_path, document)])


def test_the_page_has_both_outcomes_and_the_board_names_its_instrument(
    document: dict[str, Any], tmp_path: Path
) -> None:
    ours = entry_of(tmp_path, document)
    head, rows = effects_table(ours)
    [sft, _] = rows
    # the emails of odd scenarios are detected, the base's never
    assert sft[head.index("instrument")] == "minilm"
    assert sft[head.index("detection minus base")].startswith("0.50 [")
    # (.9 + .1) / 2 less the base's .1
    assert sft[head.index("P(persona) minus base")].startswith("0.40 [")
    head, rows = board_table([ours, entry_of(tmp_path, {**document, "name": "theirs"})])
    assert {row[head.index("instrument")] for row in rows} == {"minilm"}
    assert len(rows) == 4


def test_what_no_difference_reaches_is_not_printed_as_one(
    document: dict[str, Any], tmp_path: Path
) -> None:
    changed = json.loads(json.dumps(document))
    for reading in changed["readings"]:
        for each in reading["contrasts"]:
            each["detectable"] = 1.41
    page = markdown([entry_of(tmp_path, changed)])
    assert "After it: no difference is large enough." in page
    assert "1.41" not in page
