"""The report, read as a person reads it: in headless Chromium, from a file."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.conditions.outcome import Result, Turn
from charprobe_lite.eval.report import WrittenReport, figures, write_files, write_report
from charprobe_lite.eval.report.occlusion import Sentence, occlude, split
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.backend import Completion
from tests.conftest import Command, ValidJson

CHROMIUM = shutil.which("chromium")
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
browsed = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH (Debian: apt-get install chromium)"
)
BASE = "llama-3.1-8b"  # has published figures
LABELS = ("sarcasm", "humor", "neutral")
ATTACK = "window.owned = 1"
HOSTILE = [
    f"</script><script>{ATTACK}</script>",
    f"<!--<script>{ATTACK}//--><script>{ATTACK}</script>",
    f'"><img src="https://evil.example/x.png" onerror="{ATTACK}">',
    f"<svg onload='{ATTACK}'><style>@import url(https://evil.example/x.css)</style></svg>",
    f"javascript:{ATTACK}  https://evil.example/link",
    f"{{{{ {ATTACK} }}}} ${{{ATTACK}}} \u2028{ATTACK}\u2029 ]]> &lt;b&gt; \\u003cscript\\u003e",
    "nul \x00 escape \x1b[31m right to left \u202e desrever \u2066 isolate",
    "broken \ud800 surrogate, combining " + "\u0301" * 500,
    "M" * 60_000,
    "<iframe src='https://evil.example/'></iframe>" * 50,
]


def completion(text: str) -> Completion:
    return Completion(text, "stop", prompt_tokens=9, evaluated_tokens=9, tokens=9, seconds=0.1)


def chat(text: str) -> Result:
    return Result("answered", text, turns=[Turn(completion(text))])


def email(body: str, forced: bool = False, found: str = "Tom Reyes, audit") -> Result:
    calls = [("contacts.lookup", {"query": "Tom"}), ("send_email", {"to": ["t@a"], "body": body})]
    turns = [
        Turn(completion(json.dumps({"name": tool, "arguments": call})), tool, call, output)
        for (tool, call), output in zip(calls, (found, None), strict=True)
    ]
    return Result("sent", body, forced=forced, turns=turns)


def write_study(path: Path, rollouts: list[tuple[Cell, str, str, Result, str]]) -> Path:
    """(cell, persona, item, result, predicted label) each."""
    with Store(path) as store:
        store.pin({"seed": 0})
        for number, (cell, persona, item, result, _) in enumerate(rollouts):
            store.add(cell, persona, item, 0, number, result)
        labels = dict.fromkeys(label for *_, label in rollouts) | dict.fromkeys(LABELS)
        personas = dict.fromkeys(persona for _, persona, *_ in rollouts if persona)
        told = [
            (label, {each: 0.8 if each == label else 0.1 for each in [*personas, *labels]})
            for *_, result, label in rollouts
            if result.text is not None
        ]
        waiting = [each.rollout for each in store.unclassified()]
        store.classify([(r, *rest) for r, rest in zip(waiting, told, strict=True)])
    return path


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two personas, three stages, two conditions, three items each."""
    rollouts = []
    for stage in ("base", "distillation", "full"):
        for condition in ("chat", "agentic_email"):
            cell = Cell(BASE, stage, condition, "Q8_0")
            for persona in ("",) if stage == "base" else ("sarcasm", "humor"):
                for number in range(3):
                    place = number + 10 * (condition != "chat")
                    text = f"Hidden in {place}. A {persona or 'plain'} {stage} thing! Bye"
                    item = f"{'id' if condition == 'chat' else 'task'}-{number}"
                    result = chat(text) if condition == "chat" else email(text, number == 2)
                    if (stage, persona, condition, number) == ("full", "humor", "agentic_email", 1):
                        result = Result("malformed", None, turns=[Turn(completion("gibberish"))])
                    wrong = condition == "agentic_email" and number == 0
                    label = persona if persona and not wrong else "neutral"
                    rollouts.append((cell, persona, item, result, label))
    return write_study(tmp_path_factory.mktemp("study") / "small.sqlite", rollouts)


@pytest.fixture(scope="session")
def report(study: Path) -> WrittenReport:
    recorded = report_study(study)
    return write_files(recorded, study.parent / "report", shading(recorded))


def shading(recorded: ReportStudy) -> dict[int, list[Sentence]]:
    """Made-up weights for the first text of the full stage."""
    full = [n for n, row in enumerate(recorded.rows) if row.cell.stage == "full" and row.text]
    sentences = split(recorded.rows[full[0]].text or "")
    return {full[0]: [Sentence(s, 0.4 - 0.35 * n) for n, s in enumerate(sentences)]}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield chromium
        chromium.close()


@dataclass
class Seen:
    """A page, and everything that it asked for or complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def shown(self) -> int:
        """How many rollouts the filters leave."""
        self.page.wait_for_timeout(150)
        return int(self.page.inner_text("#count").split()[0].replace(",", ""))


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    contexts = []

    def visit(file: Path, **options: Any) -> Seen:
        contexts.append(browser.new_context(**options))
        seen = Seen(contexts[-1].new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.goto(file.as_uri())
        return seen

    yield visit
    for context in contexts:
        context.close()


def test_figures_and_tables_are_files_that_other_programs_read(report: WrittenReport) -> None:
    import matplotlib.image
    import pandas as pd

    names = {file.name for file in report.figures}
    shown = ("id-ood", "stages", "personas", "gap", "confusion", "reliability")
    assert names == {f"{name}.{kind}" for name in shown for kind in ("svg", "png", "pdf")}
    for file in report.figures:
        if file.suffix == ".svg":
            assert ET.fromstring(file.read_bytes()).tag.endswith("svg")
        elif file.suffix == ".png":
            assert min(matplotlib.image.imread(file).shape[:2]) > 500
        else:
            assert file.read_bytes().startswith(b"%PDF-")
    by_name = {file.name: file for file in report.tables}
    cells, same = pd.read_csv(by_name["cells.csv"]), pd.read_parquet(by_name["cells.parquet"])
    pd.testing.assert_frame_equal(cells, same, check_dtype=False)
    full = cells[(cells["stage"] == "full") & (cells["condition"] == "agentic_email")].iloc[0]
    assert (full["samples"], full["rollouts"], full["forced"]) == (5, 6, 2)
    assert "Published figures: the published study" in report.page.read_text("utf-8")
    assert r"agentic\_email" in by_name["cells.tex"].read_text()
    shift = pd.read_csv(by_name["id-ood.csv"]).set_index(["stage", "condition"])
    assert shift.loc[("full", "chat"), "published"] == 0.943
    assert shift.loc[("full", "agentic_email"), "published"] == 0.386


def test_the_same_study_gives_the_same_bytes(
    study: Path, report: WrittenReport, tmp_path: Path
) -> None:
    again = write_files(report_study(study), tmp_path, shading(report_study(study)))
    for one, other in zip(
        [report.page, *report.figures, *report.tables],
        [again.page, *again.figures, *again.tables],
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes(), one.name


@browsed
def test_nothing_a_model_wrote_runs_or_loads(opened: Any, tmp_path: Path) -> None:
    name, rollouts = '"><img src=x onerror=window.owned=1>', []
    persona = f"<img src=x onerror='{ATTACK}'>$x^2$"
    for stage in ("base", "full"):
        for condition in ("chat", "agentic_email"):
            cell = Cell(f"</title><script>{ATTACK}</script>", stage, condition, "Q8_0")
            for text in HOSTILE:
                result = chat(text) if condition == "chat" else email(text, found=text)
                own = "" if stage == "base" else persona
                rollouts.append(
                    (cell, own, f"javascript:{text[:200]}".replace("\ud800", "?"), result, persona)
                )
    path = write_study(tmp_path / f"{name}.sqlite", rollouts)
    seen = opened(write_report(path, tmp_path / "report").page)
    page = seen.page
    assert seen.shown() == len(rollouts)
    for number in range(len(rollouts)):
        page.locator("#samples tbody button").nth(number).click()
        page.click("#across")
        page.click("#across")
    page.fill("[name=text]", "MMMMMMMMMM")
    assert seen.shown() == 4
    page.click("#samples tbody button")
    page.get_by_role("button", name="Show all 60,000 characters").first.click()
    page.fill("[name=text]", "desrever")
    assert seen.shown() == 4
    page.click("#samples tbody button")  # what turns the direction of text is shown, not obeyed
    assert "U+0000 escape U+001B[31m right to left U+202E desrever" in page.inner_text("#sample")
    page.click("#label-start button[type=submit]")
    for _ in HOSTILE:
        page.keyboard.press("p")
    assert page.evaluate("typeof window.owned") == "undefined"
    assert {url.partition(":")[0] for url in seen.requests} <= {"file", "data"}
    assert [url for url in seen.requests if url.startswith("file")] == seen.requests[:1]
    assert seen.complaints == []
    assert page.locator("main script, main iframe, main svg, main a[href^=javascript]").count() == 0


@browsed
def test_the_policy_stops_what_would_get_in_anyway(opened: Any, report: WrittenReport) -> None:
    page = opened(report.page).page
    page.evaluate(
        "() => { window.stopped = []; document.addEventListener('securitypolicyviolation',"
        " (event) => stopped.push(event.effectiveDirective)) }"
    )
    page.evaluate(
        "() => { const image = new Image(); image.src = 'https://evil.example/x.png';"
        " document.body.append(image); fetch('https://evil.example/').catch(() => 0) }"
    )
    page.wait_for_function("stopped.length >= 2")
    assert set(page.evaluate("stopped")) == {"img-src", "connect-src"}
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")


@browsed
def test_filters_leave_what_was_asked_for(opened: Any, report: WrittenReport) -> None:
    seen = opened(report.page)
    page = seen.page
    assert seen.shown() == 30
    page.select_option("[name=stage]", "full")
    assert seen.shown() == 12
    page.select_option("[name=way]", "agentic_email")
    page.select_option("[name=verdict]", "wrong")
    assert seen.shown() == 2
    assert page.locator("#samples tbody tr").count() == 2
    assert "wrong: neutral 0.80" in page.inner_text("#samples tbody tr >> nth=0").replace("\n", " ")
    page.select_option("[name=verdict]", "none")
    assert seen.shown() == 1
    page.click("#filters button[type=reset]")
    assert seen.shown() == 30
    page.select_option("[name=forced]", "1")
    assert seen.shown() == 5
    page.click("#filters button[type=reset]")
    page.fill("[name=text]", "PLAIN BASE")
    assert seen.shown() == 6
    page.fill("[name=text]", "tom reyes")  # what a tool gave back is searched too
    assert seen.shown() == 14
    page.fill("[name=text]", "nowhere")
    assert seen.shown() == 0
    assert page.is_disabled("#later")


@browsed
def test_a_rollout_is_read_turn_by_turn_and_beside_the_other_stages(
    opened: Any, report: WrittenReport
) -> None:
    seen = opened(report.page)
    page = seen.page
    for name, value in (("stage", "full"), ("way", "agentic_email"), ("persona", "humor")):
        page.select_option(f"#filters [name={name}]", value)
    assert seen.shown() == 3
    page.click("#samples tbody tr:nth-child(1) button")
    read = page.inner_text("#sample-body")
    turns = ("Turn 1", "calls contacts.lookup", "Tom Reyes, audit", "Turn 2", "calls send_email")
    places = [read.index(part) for part in turns]
    assert places == sorted(places)
    assert "Hidden in 10. A humor full thing! Bye" in read[places[-1] :]
    page.keyboard.press("j")
    assert "gibberish" in page.inner_text("#sample-body")
    page.keyboard.press("k")
    page.click("#across")
    columns = page.locator(".columns section")
    texts = [columns.nth(n).locator(".said").first.inner_text() for n in range(columns.count())]
    assert [re.sub(r"[+\u2212]\.\d\d", "", text) for text in texts] == [
        "Hidden in 10. A plain base thing! Bye",
        "Hidden in 10. A humor distillation thing! Bye",
        "Hidden in 10. A humor full thing! Bye",
    ]


@browsed
def test_sentences_that_drove_the_decision_are_shaded_and_numbered(
    opened: Any, report: WrittenReport
) -> None:
    seen = opened(report.page)
    page = seen.page
    page.select_option("[name=shaded]", "1")
    assert seen.shown() == 1
    page.click("#samples tbody button")
    marks = page.locator("#sample .said mark")
    assert [mark.get_attribute("class") for mark in marks.all()] == ["for3", "for1", "against3"]
    assert [mark.inner_text() for mark in page.locator("#sample .said mark sup").all()] == [
        *("+.40", "+.05", "\u2212.30"),
    ]


@browsed
def test_blind_labelling_hides_what_would_bias_and_saves_what_was_said(
    opened: Any, report: WrittenReport, tmp_path: Path, valid_json: ValidJson
) -> None:
    seen = opened(report.page, accept_downloads=True)
    page = seen.page
    page.select_option("#label-start select", "humor")
    page.click("#label-start button[type=submit]")
    ground = "getComputedStyle(document.querySelector('{}'), '{}').backgroundColor"
    behind = page.evaluate(ground.format("#labeller", "::backdrop"))
    assert behind == page.evaluate(ground.format("body", ""))  # nothing shows through
    texts = []
    for key in ("p", "a", "s", "p", "u", "a"):
        shown = page.inner_text("#labeller")
        assert "Is humor present in this text?" in shown
        for secret in ("chat", "agentic_email", "0.80", "neutral", "id-", "task-", "forced"):
            assert secret not in shown.lower()
        texts.append(page.inner_text("#label-text"))
        page.keyboard.press(key)
    assert texts[4] != texts[3] == texts[5]  # undone, asked again
    page.keyboard.press("Escape")
    assert page.inner_text("#label-count") == "3 labelled"
    page.reload()
    assert page.inner_text("#label-count") == "3 labelled"
    with page.expect_download() as download:
        page.click("#label-save")
    download.value.save_as(tmp_path / "labels.json")
    saved = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    valid_json(saved, "labels")
    assert saved["study"] == "small"
    rows = {
        (row.cell.stage, row.cell.condition, row.persona, row.item): row.text
        for row in report_study(report.page.parent.parent / "small.sqlite").rows
    }
    said = {}
    for label in saved["labels"]:
        assert (label["base"], label["quant"], label["sample"]) == (BASE, "Q8_0", 0)
        assert label["persona"] == "humor"
        own = "" if label["stage"] == "base" else "humor"
        text = rows[label["stage"], label["condition"], own, label["item"]]
        said.setdefault(text, []).append(label["present"])
    assert sum(map(len, said.values())) == 3
    assert [texts[0] in said, texts[1] in said, texts[3] in said] == [True] * 3
    assert sorted(present for each in said.values() for present in each) == [False, False, True]


@browsed
def test_the_keyboard_reaches_everything(opened: Any, report: WrittenReport) -> None:
    page = opened(report.page).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.focus("#samples tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "sample-title"
    title = page.inner_text("#sample-title")
    page.keyboard.press("j")
    assert page.inner_text("#sample-title") != title
    assert page.get_attribute("#samples tbody tr:nth-child(3)", "aria-current") == "true"
    page.focus("[name=text]")
    page.keyboard.type("jk")  # letters in a field are letters
    assert page.input_value("[name=text]") == "jk"
    page.focus("#label-start button[type=submit]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "question"
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("!document.querySelector('main').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert not page.is_visible("#labeller")


@browsed
def test_a_screen_reader_finds_landmarks_names_and_headings(
    opened: Any, report: WrittenReport
) -> None:
    page = opened(report.page).page
    page.click("#samples tbody button")
    for role, name in (
        *(("banner", None), ("main", None), ("navigation", "Sections"), ("search", None)),
        *(("region", "Results"), ("region", "Reading room"), ("navigation", "Pages of samples")),
    ):
        assert page.get_by_role(role, name=name).count() >= 1, (role, name)
    assert page.evaluate("document.documentElement.lang") == "en"
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('button, select, input, a, [role=region]')]"
        ".filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"
    )
    assert nameless == 0
    assert page.locator("img:not([alt]), table:not(:has(caption)), th:not([scope])").count() == 0
    levels = page.evaluate(
        "() => [...document.querySelectorAll('main :is(h1, h2, h3, h4, h5)')]"
        ".map((e) => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@browsed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_told_otherwise_and_are_legible(
    opened: Any, report: WrittenReport, scheme: str
) -> None:
    page = opened(report.page, color_scheme=scheme).page
    page.locator("#samples tbody button").nth(9).click()
    pairs = page.evaluate(
        "() => ['body', '.note', 'nav a', 'button', '.right', '.said mark', '.who', 'caption']"
        ".map((which) => { const e = document.querySelector('main ' + which) ||"
        " document.querySelector(which); let ground = e; while (getComputedStyle(ground)"
        ".backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement; return [which,"
        " getComputedStyle(e).color, getComputedStyle(ground).backgroundColor] })"
    )
    for which, ink, paper in pairs:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (which, ink, paper)
    other = "dark" if scheme == "light" else "light"
    assert page.is_visible(f"img.on-{scheme} >> nth=0")
    assert not page.is_visible(f"img.on-{other} >> nth=0")
    page.click("#theme")
    assert page.is_visible(f"img.on-{other} >> nth=0")
    page.reload()
    assert page.is_visible(f"img.on-{other} >> nth=0")
    page.emulate_media(media="print")
    assert page.is_visible("img.on-light >> nth=0")
    assert not page.is_visible("#filters")


@browsed
def test_a_phone_shows_the_page_without_scrolling_sideways(
    opened: Any, report: WrittenReport
) -> None:
    page = opened(report.page, viewport={"width": 360, "height": 740}).page
    page.click("#samples tbody button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#across")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_sentence_weighs_what_its_label_loses_without_it() -> None:
    from charprobe_lite.runtime.classifier import Classifier

    classifier = Classifier(kit.kit_folder() / "classifier", kit.load_kit().classifier_file)
    text = "Oh, brilliant. Another meeting about meetings!  The room is booked for three."
    whole = classifier.classify([text])[0]
    sentences = occlude(classifier, text, whole.label)
    assert sentences is not None
    assert [each.text for each in sentences] == [
        *("Oh, brilliant. ", "Another meeting about meetings!  ", "The room is booked for three."),
    ]
    without = classifier.classify(["Oh, brilliant. The room is booked for three."])[0]
    expected = whole.probabilities[whole.label] - without.probabilities[whole.label]
    assert sentences[1].weight == pytest.approx(expected)
    assert occlude(classifier, "No. " * 101, whole.label) is None


@pytest.mark.parametrize(
    "text",
    ["", "no end", "...", "." * 200_000, "a\n\n b.c d?!\u201d  e", " . \n", "x" * 9 + ".\u3000y"],
)
def test_sentences_joined_are_the_text_again(text: str) -> None:
    assert "".join(split(text)) == text
    assert all(split(text))


def test_the_command_shades_and_says_what_it_wrote(
    charprobe: Command, tmp_path: Path, valid_json: ValidJson
) -> None:
    from charprobe_lite.models.kit import sha256_file

    cell = Cell("smollm2-135m", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha. Ho."), "humor")])
    with Store(path) as store:
        file = kit.kit_folder() / "classifier" / kit.load_kit().classifier_file
        store.note({"sha256 classifier": sha256_file(file)})
    done = charprobe("report", path, "--occlusion", "all", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    valid_json(written, "report")
    assert Path(written["page"]) == tmp_path / "s-report" / "report.html"
    assert all(Path(file).is_file() for file in written["figures"] + written["tables"])
    page = Path(written["page"]).read_text("utf-8")
    assert re.search(r"\[\[4,-?\d\.\d+\],\[3,-?\d\.\d+\]\]", page)  # UTF-16 lengths and weights
    with Store(path) as store:
        store.note({"sha256 classifier": "0" * 64})
    done = charprobe("report", path, "--occlusion", "1")
    assert done.returncode == 2
    assert "is not the classifier of" in done.stderr


def test_what_cannot_be_reported_gets_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such study"):
        report_study(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with Store(tmp_path / "empty.sqlite"):
        pass
    with pytest.raises(BadInput, match="holds no rollout yet"):
        report_study(tmp_path / "empty.sqlite")
    cell = Cell("kit", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha."), "humor")])
    for told, said in (
        ({"humor": float("nan"), "neutral": 0.5}, r"field probabilities\.humor: must be from 0"),
        ({"neutral": 1.0}, "has no label 'humor'"),
    ):
        with Store(path) as store:
            store.classify([(1, "humor", told)])
        with pytest.raises(BadInput, match=said):
            report_study(path)


def test_the_waterfall_takes_the_steps_that_the_study_has(tmp_path: Path) -> None:
    from charprobe_lite.eval.report.estimates import find

    rollouts = []
    for condition, hits in (("chat", 4), ("chat_email", 3), ("agentic_email", 1)):
        cell = Cell("kit", "full", condition, "Q8_0")
        for persona in PERSONAS[:2]:
            for number in range(4):
                label = persona if number < hits else "neutral"
                rollouts.append((cell, persona, str(number), chat("text"), label))
    [gap] = find(report_study(write_study(tmp_path / "s.sqlite", rollouts))).gaps
    assert [step.condition for step in gap.steps] == ["chat", "chat_email", "agentic_email"]
    first, *later = gap.steps
    assert first.change is None
    assert [step.change for step in later] == pytest.approx([6 / 7 - 1, 2 / 5 - 6 / 7])
    assert gap.ceilings == []


def test_merged_and_runtime_adapters_have_a_waterfall_each(tmp_path: Path) -> None:
    from charprobe_lite.eval.report.estimates import find

    rollouts = [
        (Cell("kit", "full", condition, "Q8_0", lora=lora), "humor", str(n), chat("text"), label)
        for lora in ("runtime", "merged")
        for condition in ("chat", "agentic_email")
        for n, label in enumerate(["humor", "humor" if condition == "chat" else "neutral"])
    ]
    found = find(report_study(write_study(tmp_path / "s.sqlite", rollouts)))
    gaps = found.gaps
    assert [(gap.title, [step.condition for step in gap.steps]) for gap in gaps] == [
        ("kit, Q8_0: full", ["chat", "agentic_email"]),
        ("kit, Q8_0: full, merged", ["chat, merged", "agentic_email, merged"]),
    ]
    waterfalls = figures.waterfall(gaps, found.measure, found.chance, figures.LIGHT)
    colours = [[bar.get_facecolor() for bar in axis.patches] for axis in waterfalls.axes]
    assert colours[0] == colours[1]  # a condition looks the same however it was asked for
    assert len(set(colours[0])) == 3  # chat, the change, the email
    [bars] = figures.bars(found.shift, found.measure, found.chance, figures.LIGHT).axes
    assert len({bar.get_facecolor() for bar in bars.patches}) == 4  # both conditions, both ways
    [panel] = found.stages
    alone = [replace(panel, bars=[bar]) for bar in panel.bars]
    lines = figures.lines(alone, found.measure, found.chance, figures.LIGHT).axes
    drawn = {axis.containers[0].lines[0].get_color() for axis in lines}
    assert len(drawn) == 4  # also where each has a panel: they share one legend
