"""How fast the report's page is with many samples: first paint and filters, in Chromium.

python bench/page.py STUDY [--samples 20000] [--rounds 3]: the study's rollouts, repeated until
there are so many, as one page, by turns with a page of a hundredth of them; prints what Chromium
measures when it opens a page and uses the filters, and the ratios of both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from ratios import Ratio, by_round

from charprobe_lite.eval.report import write_report
from charprobe_lite.eval.store.reader import Study, open_study

FILTER = """
async ([name, value]) => {
  const field = document.querySelector(`#filters [name=${name}]`);
  const count = document.getElementById("count");
  const before = count.textContent;
  const start = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  while (count.textContent === before) await new Promise((next) => setTimeout(next));
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  const duration = performance.now() - start;
  field.form.reset();
  while (count.textContent !== before) await new Promise((next) => setTimeout(next));
  return Math.round(duration);
}
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Write the pages, open them, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figure, counts = f"with {options.samples} rollouts", (options.samples, options.samples // 100)
    peer = f"a page with {counts[1]}"
    if not shutil.which("chromium"):
        missing = Ratio(f"first paint and filters {figure}", peer, missing="needs chromium")
        print(json.dumps({"ratios": [asdict(missing)]}))
        return
    study = open_study(options.study)
    with tempfile.TemporaryDirectory() as folder:
        pages = [write_page(study, count, Path(folder) / str(count)) for count in counts]
        rounds = [[time_page(page) for page in pages] for _ in range(options.rounds)]
    big, small = zip(*rounds, strict=True)
    ratios = [
        by_round(f"{what} {figure}", peer, [read(r) for r in big], [read(r) for r in small])
        for what, read in (
            ("first paint", lambda timed: timed["first paint ms"]),
            ("filtering by stage", lambda timed: timed["filters ms"][0][2]),
            ("searching a text", lambda timed: timed["filters ms"][2][2]),
        )
    ]
    document = {"samples": counts, "rounds": rounds, "ratios": [asdict(each) for each in ratios]}
    print(json.dumps(document))


def write_page(study: Study, samples: int, folder: Path) -> Path:
    """The report of the study's rollouts, repeated until there are ``samples``."""
    numbered = enumerate(islice(cycle(study.rows), samples))
    many = replace(
        study,
        rows=[replace(row, sample=n // len(study.rows)) for n, row in numbered],
        turns=list(islice(cycle(study.turns), samples)),
    )
    return write_report(many, folder).page


def time_page(file: Path) -> dict[str, Any]:
    """Milliseconds of the page's first paint, its load and its filters."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_timeout(3000)  # a person takes as long to reach a filter
        filters = [
            ("stage", "full"),
            ("verdict", "wrong"),
            ("text", "regards"),
            ("text", "no such words"),
        ]
        timings = {
            "megabytes": round(file.stat().st_size / 1e6, 1),
            "first paint ms": round(page.evaluate(PAINT)),
            "loaded ms": round(page.evaluate(LOADED)),
            "filters ms": [[*pair, page.evaluate(FILTER, list(pair))] for pair in filters],
        }
        browser.close()
    return timings


if __name__ == "__main__":
    main()
