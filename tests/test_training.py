"""Several adapters of one persona, each trained with a seed of its own: asked for, run, scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.report import write_report
from charprobe_lite.eval.report.html import island
from charprobe_lite.eval.report.study import report_study
from charprobe_lite.eval.scores.cells import Scores, score_study
from charprobe_lite.eval.scores.terminal import conclusion
from charprobe_lite.eval.scores.training import seed_notes
from charprobe_lite.eval.stats.classification import Labels, accuracies, macro_f1s
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metric, label_names
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import merge_studies
from charprobe_lite.eval.study.grid import in_shard, tasks_of
from charprobe_lite.eval.study.spec import parse_spec, resolve
from charprobe_lite.eval.study.status import study_status
from charprobe_lite.eval.study.variants import variants_of
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.errors import BadInput
from tests.conftest import ValidJson

PERSONAS = ["humor", "remorse"]
BASE = "smollm2-135m"


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of two more adapters per persona: the kit's full one, and its distillation."""
    for seed, stage in ((3, "full"), (5, "distillation")):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        for persona in PERSONAS:
            source = kit.kit_folder() / f"{persona}-{stage}.gguf"
            shutil.copy(source, folder / f"{persona}.gguf")
    return write(tmp_path, monkeypatch, path="seed-{train_seed}/{persona}.gguf")


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Path:
    file = folder / "catalogue.yaml"
    entry = {"base": BASE, "stage": "full", "personas": PERSONAS, "train_seeds": [3, 5]}
    file.write_text(yaml.safe_dump({"adapters": [entry | fields]}))
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(file))
    return file


def spec_values(**changes: Any) -> dict[str, Any]:
    return {"stage": "base,full", "persona": PERSONAS, "limit": 2, **changes}


# ---- the catalogue


def test_adapters_of_one_persona_are_told_apart_by_their_training_seed(catalogue: Path) -> None:
    known = load_catalogue()
    paths = [known.adapter(BASE, "full", "humor", seed) for seed in (None, 3, 5)]
    assert [entry and entry.path for entry in paths] == [
        kit.kit_folder() / "humor-full.gguf",  # the one without a seed comes first
        catalogue.parent / "seed-3" / "humor.gguf",
        catalogue.parent / "seed-5" / "humor.gguf",
    ]
    assert known.adapter(BASE, "full", "humor", 4) is None
    assert known.adapter(BASE, "full", "sarcasm", 3) is None


def test_without_a_seed_the_lowest_one_serves(catalogue: Path) -> None:
    entry = {"base": "gemma-3-4b", "stage": "full", "path": "{train_seed}", "personas": ["pirate"]}
    file = {
        "personas": ["pirate"],
        "classifiers": [
            {"name": "ears", "bases": ["gemma-3-4b"], "path": "/ears", "labels": ["pirate", "x"]}
        ],
        "adapters": [entry | {"train_seeds": [12, 7]}],
    }
    catalogue.write_text(yaml.safe_dump(file))
    adapter = load_catalogue().adapter("gemma-3-4b", "full", "pirate")
    assert adapter is not None
    assert adapter.train_seed == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "{persona}"}, "several seeds in one place; put {train_seed} into subfolder or"),
        ({"path": "{persona}/{train_seed}", "train_seed": 1}, "give either train_seed or train_s"),
        ({"path": "{persona}/{train_seed}", "train_seeds": []}, "{train_seed} without a seed"),
        ({"path": "{persona}/{train_seed}", "train_seeds": [1, 1]}, "humor train_seed 1' appears"),
        ({"path": "{persona}/{train_seed}", "train_seeds": [-1]}, "train_seeds.0: Input should be"),
    ],
)
def test_seeds_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, monkeypatch, **fields)
    with pytest.raises(BadInput) as error:
        load_catalogue()
    assert str(error.value).startswith(f"{file}: field adapters.0")
    assert message in str(error.value)


# ---- what is asked


@pytest.mark.parametrize("value", ["0,1,2", ["2", "0,1"], [0, 1, 2, 1], ("1", 0, "2")])
def test_seeds_are_a_list_a_text_or_repeated(value: Any) -> None:
    assert parse_spec({"train_seed": value}).train_seeds == (0, 1, 2)
    assert parse_spec({}).train_seeds == ()
    assert parse_spec({"train_seed": 7}).recorded()["train_seed"] == [7]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_seed": "0,x"}, "--train-seed: give whole numbers from 0, such as 0,1,2"),
        ({"train_seed": "-1"}, "--train-seed: give whole numbers from 0"),
        ({"train_seed": 0, "gguf": "m.gguf"}, "does not apply to --gguf; leave it out"),
        ({"train_seed": 0, "adapter": "m.gguf"}, "does not apply to --adapter; leave it out"),
        ({"train_seed": 0, "backend": "openai"}, "does not apply to --backend openai; leave it"),
        ({"train_seed": "3,5", "texts": 0}, "--train-seed: a quantization study takes one; name"),
        (
            {"train_seed": "3,4"},
            f"--train-seed 4: {BASE} has no adapter of humor in stage full with this seed; add one "
            "with train_seed: 4 to your catalogue",
        ),
    ],
)
def test_seeds_that_there_is_no_adapter_for_are_refused(
    catalogue: Path, values: dict[str, Any], message: str
) -> None:
    assert catalogue.is_file()
    with pytest.raises(BadInput) as error:
        variants_of(resolve(parse_spec(spec_values(**values))), load_catalogue())
    assert message in str(error.value)


def test_adapters_of_one_persona_meet_the_same_randomness_and_stay_in_one_part(
    catalogue: Path,
) -> None:
    assert catalogue.is_file()

    def tasks(**values: Any) -> list[Any]:
        spec = resolve(parse_spec(spec_values(**values)))
        return [
            task for part in tasks_of(spec, variants_of(spec, load_catalogue())) for task in part
        ]

    plain = {(t.cell, t.persona, t.item.id): t.seed for t in tasks()}
    seeded = tasks(train_seed="3,5")
    assert {t.cell.train_seed for t in seeded if t.cell.stage == "base"} == {None}
    assert {t.cell.train_seed for t in seeded if t.cell.stage == "full"} == {3, 5}
    assert {t.checkpoint.train_seed for t in seeded if t.cell.stage == "full"} == {3, 5}
    for task in seeded:
        assert task.seed == plain[task.cell.pooled, task.persona, task.item.id]
    part = tasks(train_seed="3,5", shard=(1, 2))
    assert part
    assert {t.key for t in part} == {t.key for t in seeded if in_shard((1, 2), *t.key[1:])}


# ---- a study from end to end


def test_a_study_of_two_seeds_runs_resumes_merges_scores_and_reports(
    catalogue: Path, cache: Path, tmp_path: Path, valid_json: ValidJson
) -> None:
    assert catalogue.is_file()
    assert cache.is_dir()
    options = ["--persona", "humor,remorse", "--stage", "base,full", "--condition", "chat"]
    options += ["--limit", "2", "--max-tokens", "12", "--train-seed", "5,3"]

    def run(study: Path, *more: str) -> str:
        arguments = [*options, "--study", str(study), *more]
        done = CliRunner().invoke(main, ["eval", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    parts = [tmp_path / f"part{number}.sqlite" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        run(part, "--shard", f"{number}/2")
    whole = merge_studies(parts, tmp_path / "whole.sqlite").path
    with Store(whole, readonly=True) as store:
        before, provenance = store.rows(), store.provenance()
    assert len(before) == 2 + 2 * 2 * 2
    pins = {name for name in provenance if name.startswith("sha256 adapter")}
    seeds = [(persona, seed) for persona in PERSONAS for seed in (3, 5)]
    assert pins == {f"sha256 adapter full/{p} train_seed {seed}" for p, seed in seeds}
    texts = {(row.cell.train_seed, row.persona, row.item): row.text for row in before}
    items = {row.item for row in before}
    assert any(texts[3, p, item] != texts[5, p, item] for p in PERSONAS for item in items)

    document = json.loads(run(whole, "--json"))  # nothing is missing
    valid_json(document, "eval")
    with Store(whole, readonly=True) as store:
        assert store.rows() == before
    base, full = document["cells"]
    assert (base["train_seed"], full["train_seed"], full["n"]) == (None, None, 8)
    assert "train_seeds" not in base
    assert set(full["train_seeds"]) == {"3", "5"}
    status = study_status(parse_spec(spec_values(train_seed="3,5", condition="chat", study=whole)))
    assert [(c.cell.train_seed, c.total, c.missing) for c in status.cells] == [
        *((None, 2, 0), (3, 4, 0), (5, 4, 0))
    ]
    page = write_report(whole, tmp_path / "report", occlusion=0).page.read_text()
    assert "2 training seeds (3, 5) were resampled" in page
    assert "adapters of 2 training seeds" in page
    study = report_study(whole)
    cells = json.loads(island(study, {}))["cells"]
    assert [cell["train_seed"] for cell in cells] == ["", 3, 5]
    assert [cell.stage for cell in study.cells] == ["base", "full"]


# ---- the statistics


def labels(hits: Sequence[Sequence[int]], persona: str = "humor", seeds: bool = True) -> Labels:
    """``hits[adapter][item]``: whether the text is classified as its persona."""
    rows = [
        (persona, persona if hit else "neutral", f"item-{item}", adapter if seeds else None)
        for adapter, row in enumerate(hits)
        for item, hit in enumerate(row)
    ]
    return Labels.of([row[:3] for row in rows], train_seeds=[row[3] for row in rows])


def resampled(cells: dict[str, Labels], resamples: int = 4000) -> ResampledMetrics[str]:
    names = label_names(cells.values())
    metrics = {name: label_metric(cell, names, accuracies) for name, cell in cells.items()}
    return ResampledMetrics(metrics, 0, resamples)


@pytest.mark.parametrize("shares", [(10, 4), (10, 8, 3), (9, 9, 2, 4, 7)])
def test_the_variance_between_few_adapters_is_that_of_their_mean(shares: Sequence[int]) -> None:
    # one item of ten texts: nothing but adapters varies
    cell = Labels.of(
        [
            ("humor", "humor" if text < hits else "neutral", "item")
            for hits in shares
            for text in range(10)
        ],
        train_seeds=[seed for seed in range(len(shares)) for _ in range(10)],
    )
    values = resampled({"cell": cell}, 20_000).replicates("cell")
    expected = np.var(np.array(shares) / 10, ddof=1) / len(shares)
    assert values[0] == pytest.approx(sum(shares) / 10 / len(shares))
    assert values[1:].var() == pytest.approx(expected, rel=0.05)


def test_adapters_that_do_not_differ_add_nothing_to_the_resamples_of_items() -> None:
    alike = [[1, 0, 1, 1, 0, 1]] * 3
    with_seeds = resampled({"cell": labels(alike)}).replicates("cell")
    without = resampled({"cell": labels(alike, seeds=False)}).replicates("cell")
    np.testing.assert_allclose(with_seeds, without, rtol=1e-6)


def test_one_adapter_per_persona_changes_no_interval() -> None:
    one = resampled({"cell": labels([[1, 0, 1, 1, 0, 1]])}).estimate("cell")
    assert one == resampled({"cell": labels([[1, 0, 1, 1, 0, 1]], seeds=False)}).estimate("cell")


def test_stages_of_one_training_run_are_drawn_together_and_personas_apart() -> None:
    hits = [[1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 1]]
    metrics = resampled(
        {name: labels(hits, name.partition(" ")[0]) for name in ("humor a", "humor b", "remorse")}
    )
    one, other, apart = map(metrics.replicates, ("humor a", "humor b", "remorse"))
    assert (one == other).all()
    # the items are shared, the adapters are not
    assert 0.2 < np.corrcoef(one, apart)[0, 1] < 0.8


def test_resampled_macro_f1_is_that_of_weighted_rows() -> None:
    rng = np.random.default_rng(1)
    cells = [labels(rng.integers(0, 2, (3, 5)).tolist(), persona) for persona in PERSONAS]
    cell = Labels.of(
        [row for c in cells for row in zip(c.true, c.predicted, c.cluster, strict=True)],
        train_seeds=[seed for c in cells for seed in c.train_seed],
    )
    names = label_names([cell])
    metrics = ResampledMetrics({"cell": label_metric(cell, names, macro_f1s)}, 0, resamples=20)
    clusters = metrics.bootstrap.weights("cell")[metrics.bootstrap.cluster_index("cell")]
    adapters = np.stack([metrics.bootstrap.unit_weights(unit) for unit in cell.adapters])
    expected = []
    for weights in (clusters * adapters).T:
        scores = []
        for persona in PERSONAS:
            true, said = (np.array(x) == persona for x in (cell.true, cell.predicted))
            scores.append(
                2 * weights[true & said].sum() / (weights[true].sum() + weights[said].sum())
            )
        expected.append(np.mean(scores))
    np.testing.assert_allclose(metrics.replicates("cell"), expected, rtol=1e-6)


# ---- scores and words


def scored(seeds: Sequence[int | None], personas: Sequence[str] = PERSONAS) -> Scores:
    """Chats and emails of both stages; seed n misses the first n items of each persona."""
    rows = []
    for stage, condition in (("distillation", "chat"), ("full", "chat"), ("full", "agentic_email")):
        cell = Cell("kit", stage, condition, "Q8_0", lora="runtime")
        for number, seed in enumerate(seeds):
            for persona in personas:
                for item in range(8):
                    label = "neutral" if item < 2 * number else persona
                    chances = {name: float(name == label) for name in (*personas, "neutral")}
                    key = (replace(cell, train_seed=seed), persona, f"item-{item}", 0, item)
                    rows.append(Row(*key, "answered", False, "text", label, chances))
    return score_study(rows, list(dict.fromkeys(row.cell for row in rows)), list(personas), 0)


def test_seeds_are_pooled_and_each_alone_is_next_to_their_spread() -> None:
    scores = scored([0, 4, 11])
    assert [(s.stage, s.condition, s.n) for s in scores.by_cell] == [
        *(("distillation", "chat", 48), ("full", "chat", 48), ("full", "agentic_email", 48))
    ]
    # recall 1, 6/8, 4/8 with full precision: F1 = 2R / (1 + R)
    alone = [1, 6 / 7, 2 / 3]
    score = scores.by_cell[0]
    assert score.train_seeds == pytest.approx(dict(zip(("0", "4", "11"), alone, strict=True)))
    assert score.train_seed_sd == pytest.approx(np.std(alone, ddof=1))
    assert score.macro_f1 == pytest.approx(2 * 0.75 / 1.75)
    of_persona = scores.by_persona[0]
    assert of_persona.train_seeds == pytest.approx({"0": 1, "4": 0.75, "11": 0.5})
    assert seed_notes([score]) == [
        "training seeds, distillation chat: 0 1.000, 4 0.857, 11 0.667 (standard deviation 0.167)"
    ]
    one = scored([7]).by_cell[0]
    assert (one.train_seeds, one.train_seed_sd) == ({"7": 1.0}, None)


def test_adapters_that_differ_widen_the_interval_of_a_score() -> None:
    narrow, wide = (scored(seeds).by_cell[0].macro_f1_ci for seeds in ([None], [0, 1, 2]))
    assert narrow is not None
    assert wide is not None
    pooled = scored([0, 1, 2]).by_cell[0]
    assert pooled.macro_f1 is not None
    assert wide[0] < min(pooled.train_seeds.values()) + 0.1 if pooled.train_seeds else False
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([None], "Differences between stages are about these adapters; training luck is not in"),
        ([7], "are about these adapters (training seed 7); training luck is not in the intervals."),
        ([0, 10, 2], "Training luck is in the intervals: 3 training seeds (0, 2, 10) were resampl"),
    ],
)
def test_every_comparison_says_which_adapters_it_is_about(
    seeds: list[int | None], sentence: str
) -> None:
    assert sentence in conclusion(scored(seeds))
