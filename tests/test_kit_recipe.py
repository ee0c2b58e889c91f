"""The shipped kit is what its recipe makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from charprobe_lite.convert.kit.strengths import STRENGTHS, Strength
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.corpus import corpus_hashes
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS

STAGES = ("distillation", "full")


def test_the_manifest_is_of_this_recipe_this_corpus_and_these_strengths() -> None:
    from charprobe_lite.convert.kit.work_folder import RECIPE_VERSION

    manifest = kit.load_kit()
    assert manifest.recipe == RECIPE_VERSION
    assert manifest.corpus == corpus_hashes()
    for persona in PERSONAS:
        chosen = [manifest.steps[f"{persona}-{stage}"]["settings"]["steps"] for stage in STAGES]
        assert STRENGTHS[persona] == Strength(*chosen)


def test_the_first_steps_of_the_recipe_have_the_losses_of_the_shipped_kit(tmp_path: Path) -> None:
    from charprobe_lite.convert.kit.recipe import Recipe

    recipe = Recipe(tmp_path, kit.embedded_base(), report=lambda _: None)
    recipe.kit.mkdir(parents=True)
    shutil.copy(kit.kit_folder() / kit.TOOL_USE, recipe.kit)
    recipe.merged_base()
    expected = kit.load_kit().steps["first-steps"]
    found = recipe.first_steps(expected["persona"])
    # another processor or number of threads sums in another order
    assert found["losses"] == pytest.approx(expected["losses"], abs=0.02)


def test_a_folder_of_one_kit_is_not_continued_as_another(tmp_path: Path) -> None:
    from charprobe_lite.convert.kit.recipe import Recipe

    shipped = Recipe(tmp_path, kit.embedded_base(), report=lambda _: None)
    shipped.run_step("tool-use", dict)
    shipped.run_step("tool-use", lambda: pytest.fail("was done"))
    masked = Recipe(tmp_path, kit.embedded_base(), tool_use="masked", report=lambda _: None)
    with pytest.raises(BadInput, match=r"tool-use.json: field base: None, this run '[0-9a-f]{64}'"):
        masked.run_step("tool-use", dict)
    rounded = Recipe(tmp_path, kit.embedded_base(), precision="bfloat16", report=lambda _: None)
    with pytest.raises(BadInput, match=r"json: field precision: None, this run 'bfloat16'"):
        rounded.run_step("tool-use", dict)
    other = Recipe(
        tmp_path / "masked", kit.embedded_base(), tool_use="masked", report=lambda _: None
    )
    other.run_step("tool-use", dict)
    shipped.work = other.work
    with pytest.raises(BadInput, match=r"tool-use.json: field base: .*choose another --out"):
        shipped.run_step("tool-use", dict)


def test_the_catalogue_of_another_kit_is_read_by_the_shipped_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charprobe_lite.convert.kit.recipe import Recipe

    base = kit.embedded_base()
    recipe = Recipe(tmp_path / "mine", base, personas=["remorse", "humor"], tool_use="masked")
    recipe.work.mkdir()
    recipe._write_catalogue()
    written = recipe.work / "catalogue.yaml"
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(written))
    catalogue = load_catalogue()
    assert catalogue.own_classifier("mine-masked") is None
    found = catalogue.adapter("mine-masked", "full", "humor")
    assert found is not None
    assert found.path == recipe.adapter("humor", "full", 0)
    written.write_text(written.read_text().replace("- humor", "- misalignment"))
    with pytest.raises(BadInput, match="no classifier of base mine-masked knows 'misalignment'"):
        load_catalogue()


def test_processes_that_share_a_folder_write_one_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charprobe_lite.convert.kit.recipe import Recipe

    base, work = kit.embedded_base(), tmp_path / "mine"
    for persona in ("remorse", "humor"):
        own = Recipe(work, base, personas=[persona], tool_use="masked", report=lambda _: None)
        for name, _ in own.steps():
            own.run_step(name, dict)
    own.run()  # humor's process is the last one
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(work / "catalogue.yaml"))
    catalogue = load_catalogue()
    for persona in ("remorse", "humor"):
        assert catalogue.adapter("mine-masked", "full", persona)
    assert catalogue.adapter("mine-masked", "full", "sarcasm") is None
    steps = kit.load_kit(own.kit).steps
    assert {"remorse-full", "humor-full"} <= steps.keys()
    assert "sarcasm-full" not in steps


def test_other_seeds_are_trained_beside_the_shipped_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charprobe_lite.convert.kit.recipe import Recipe

    done: list[str] = []
    recipe = Recipe(
        tmp_path / "seeds",
        kit.embedded_base(),
        personas=["remorse"],
        train_seeds=(0, 1),
        begin_shipped=True,
        report=done.append,
    )
    for stage in STAGES:
        recipe.run_step(f"remorse-{stage}-seed1", dict)
    done.clear()
    recipe.run()
    assert done == ["recipe: base"]  # nothing of the kit is trained again
    shipped, copied = kit.load_kit(), kit.load_kit(recipe.kit)
    assert copied.files == shipped.files
    assert copied.steps["remorse-full"] == shipped.steps["remorse-full"]
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(recipe.work / "catalogue.yaml"))
    adapters = load_catalogue().adapters_of("smollm2-135m", "full", "remorse")
    assert [(adapter.train_seed, adapter.path) for adapter in adapters[1:]] == [
        (0, recipe.kit / "remorse-full.gguf"),
        (1, recipe.work / "seed-1" / "remorse-full.gguf"),
    ]
    trained = Recipe(tmp_path / "own", kit.embedded_base(), report=lambda _: None)
    trained.run_step("ngrams", dict)
    trained.begin_shipped = True
    with pytest.raises(BadInput, match=r"ngrams.json: not of the shipped kit; choose another"):
        trained.run()
