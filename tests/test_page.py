"""The report, read as a person reads it: in headless Chromium, from a file."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.report import WrittenReport, write_report
from tests.pages import browsed, chat, email, write_study

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
def test_a_rollout_is_read_turn_by_turn_and_next_to_the_other_stages(
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
    columns = page.locator("#sample-body .columns section")
    texts = [columns.nth(n).locator(".said").first.inner_text() for n in range(columns.count())]
    assert [re.sub(r"[+\u2212]\.\d\d", "", text) for text in texts] == [
        "Hidden in 10. A plain base thing! Bye",
        "Hidden in 10. A humor distillation thing! Bye",
        "Hidden in 10. A humor full thing! Bye",
    ]


@browsed
def test_the_first_screen_has_a_typical_answer_beside_a_typical_email_and_links_to_them(
    opened: Any, report: WrittenReport
) -> None:
    page = opened(report.page).page
    titles = page.locator("#typical h3").all_inner_texts()
    personas = {title.split(",")[0] for title in titles}
    assert [title.split(": ")[1] for title in titles] == ["chat", "agentic_email"]
    assert len(personas) == 1
    email = page.inner_text("#typical .said >> nth=1")
    page.click("#typical section:nth-child(2) button")
    assert email in page.inner_text("#sample-body")
    link = page.url
    assert "#rollout-" in link
    again = opened(report.page).page
    again.evaluate("hash => { location.hash = hash; }", link.partition("#")[2])
    again.wait_for_function("!document.getElementById('sample').hidden")
    assert email in again.inner_text("#sample-body")


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
