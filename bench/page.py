"""How fast the report's page is with many samples: first paint and filters, in Chromium.

python bench/page.py STUDY [--samples 20000]: the study's rollouts, repeated until there are so
many, as one page; prints what Chromium measures when it opens the page and uses the filters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from charprobe_lite.eval.report import write_report
from charprobe_lite.eval.store.reader import open_study

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
    """Write the big page, open it, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--samples", type=int, default=20_000)
    options = parser.parse_args()
    study = open_study(options.study)
    numbered = enumerate(islice(cycle(study.rows), options.samples))
    many = replace(
        study,
        rows=[replace(row, sample=n // len(study.rows)) for n, row in numbered],
        turns=list(islice(cycle(study.turns), options.samples)),
    )
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(many, Path(folder)).page
        print(json.dumps({"samples": options.samples, **time_page(page)}))


def time_page(file: Path) -> dict[str, object]:
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
