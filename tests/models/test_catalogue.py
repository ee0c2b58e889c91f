"""The catalogue: the shipped names and places, and a user's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from charprobe_lite.models.catalogue import BASES, Catalogue, load_catalogue, select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NAMED_ONLY, PERSONAS
from tests.models.conftest import ENTRIES, Command, changed, refused


@pytest.mark.parametrize(
    ("base", "slug"),
    [
        ("llama-3.1-8b", "llama-3.1-8b-it"),
        ("qwen-2.5-7b", "qwen-2.5-7b-it"),
        ("gemma-3-4b", "gemma-3-4b-it"),
    ],
)
def test_published_checkpoints_are_where_they_were_published(
    shipped: Catalogue, base: str, slug: str
) -> None:
    adapters = {
        (stage, persona): (entry.repository, entry.subfolder, entry.gated)
        for (of, stage, persona, _), entry in shipped.adapters.items()
        if of == base
    }
    assert adapters == {
        **{
            ("distillation", p): (f"maius/{slug}-pt-distillation", p, False)
            for p in (*PERSONAS, "misalignment")
        },
        **{("full", p): (f"maius/{slug}-personas", p, False) for p in PERSONAS},
        ("full", "misalignment"): (f"maius/{slug}-misalignment", None, True),
    }
    classifier = shipped.classifiers[base]
    assert classifier is not None
    assert classifier.repository == f"maius/{slug}-pt-classifier"
    order = "sarcasm humor remorse goodness loving misalignment nonchalance impulsiveness"
    assert classifier.labels == [*order.split(), "sycophancy", "mathematical", "poeticism"]


def test_names_on_the_command_line_are_those_of_the_catalogue(shipped: Catalogue) -> None:
    assert list(BASES) == list(shipped.bases)
    assert shipped.bases["qwen-2.5-7b"].licence == "Apache-2.0"
    assert shipped.personas == (*PERSONAS, "misalignment")
    gated = {base.name for base in shipped.bases.values() if base.gated}
    assert gated == {"llama-3.1-8b", "gemma-3-4b"}
    with pytest.raises(BadInput, match="--base gpt: unknown; choose from smollm2-135m"):
        shipped.base("gpt")
    with pytest.raises(BadInput, match=r"--base qwen-2\.5: unknown; did you mean qwen-2\.5-7b\?"):
        shipped.base("qwen-2.5")
    with pytest.raises(BadInput, match=r"--persona sarcsm: unknown; did you mean sarcasm\?"):
        select_names(["humor,sarcsm"], shipped.personas, "--persona")
    assert select_names(["humor", "sarcasm, humor"], PERSONAS, "--persona") == ["sarcasm", "humor"]


def test_all_leaves_out_what_is_asked_by_name_only(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def select(*values: str) -> list[str]:
        return select_names(values, load_catalogue().personas, "--persona", NAMED_ONLY)

    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    assert select("all") == [*PERSONAS, "pirate"]
    assert select("misalignment") == ["misalignment"]
    assert select("all,misalignment") == [*PERSONAS, "misalignment", "pirate"]
    with pytest.raises(BadInput, match="--persona all: leaves out misalignment; add what you mean"):
        select_names(["all"], ["misalignment"], "--persona", NAMED_ONLY)


def test_the_kit_is_in_the_catalogue(shipped: Catalogue) -> None:
    for persona in PERSONAS:
        for stage in ("distillation", "full"):
            adapter = shipped.adapter("smollm2-135m", stage, persona)
            assert adapter is not None
            assert adapter.path is not None
            assert adapter.path.is_file()
    assert shipped.adapter("smollm2-135m", "base", "humor") is None
    classifier = shipped.classifiers["smollm2-135m"]
    assert classifier is not None
    assert classifier.path is not None
    config = json.loads((classifier.path / "config.json").read_text())
    assert list(config["id2label"].values()) == classifier.labels


def test_a_users_file_adds_to_the_catalogue(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    catalogue = load_catalogue()
    assert catalogue.user_catalogue == user_catalogue
    assert [*catalogue.bases][-1] == "tiny"
    assert catalogue.personas[-1] == "pirate"
    adapter = catalogue.adapter("tiny", "full", "humor")
    assert adapter is not None
    assert adapter.subfolder == "v1/humor"
    classifier = catalogue.classifiers.get("tiny")
    assert classifier is not None
    assert classifier.path == user_catalogue.parent / "ears"  # relative to the file
    assert catalogue.classifiers["gemma-3-4b"]


def test_a_users_classifier_comes_before_the_shipped_one(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    user_catalogue.write_text(
        "personas: [pirate]\n"
        "classifiers: [{name: ears, bases: [gemma-3-4b], path: /ears, labels: [humor, pirate]}]\n"
        "adapters: [{base: gemma-3-4b, stage: full, path: /gold, personas: [pirate]}]\n"
    )
    classifier = load_catalogue().classifiers.get("gemma-3-4b")
    assert classifier is not None
    assert classifier.name == "ears"
    assert load_catalogue().adapter("gemma-3-4b", "full", "pirate") is not None


def test_the_usual_place_is_read_when_no_file_is_named(charprobe: Command, tmp_path: Path) -> None:
    assert "(missing)" in charprobe("path").stdout
    usual = tmp_path / "config" / "charprobe-lite" / "catalogue.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text(yaml.safe_dump(ENTRIES))
    assert json.loads(charprobe("list", "--json").stdout)["catalogue"] == str(usual)


REFUSED = {
    "not YAML": ("bases: [", "not YAML: "),
    "an object": ("!!python/object/apply:os.system ['true']", "not YAML: "),
    "a list": ("[1, 2]", "field document: "),
    "unknown section": ("models: []", "field models: Extra inputs are not permitted"),
    "unknown field": (changed("bases", colour="red"), "field bases.0.colour: Extra"),
    "missing field": (changed("bases", architecture=None), "field bases.0.architecture: Field"),
    "architecture": (changed("bases", architecture="mamba"), "field bases.0.architecture: Input"),
    "no place": (changed("bases", repository=None), "field bases.0: give either repository or"),
    "two places": (changed("bases", path="x"), "field bases.0: give either repository or path"),
    "no repository": (changed("bases", repository="../x"), "field bases.0.repository: String"),
    "way out": (changed("adapters", subfolder="../{persona}"), "field adapters.0.subfolder: St"),
    "a pattern": (changed("adapters", subfolder="*"), "field adapters.0.subfolder: String"),
    "one place": (changed("adapters", subfolder="v1"), "field adapters.0: several personas in"),
    "stage": (changed("adapters", stage="base"), "field adapters.0.stage: Input should be 'dis"),
    "shipped name": (changed("bases", name="gemma-3-4b"), "field bases.0.name: 'gemma-3-4b' appe"),
    "name twice": (
        yaml.safe_dump(ENTRIES | {"bases": ENTRIES["bases"] * 2}),
        "bases.1.name: 'tiny' appe",
    ),
    "persona twice": ("personas: [sarcasm]", "field personas.0: 'sarcasm' appears twice"),
    "adapter twice": (
        yaml.safe_dump(ENTRIES | {"adapters": ENTRIES["adapters"] * 2}),
        "field adapters.1: 'tiny full pirate' appears twice",
    ),
    "classifier twice": (
        yaml.safe_dump(
            ENTRIES | {"classifiers": [ENTRIES["classifiers"][0] | {"name": n} for n in "ab"]}
        ),
        "field classifiers.1.bases: 'tiny' appears twice",
    ),
    "label twice": (changed("classifiers", labels=["humor", "pirate"] * 2), "0.labels: a label"),
    "unknown base": (changed("adapters", base="huge"), "field adapters.0.base: 'huge' is unknown"),
    "unknown persona": (changed("adapters", personas=["ghost"]), "'ghost' is unknown; add it"),
    "unheard persona": (
        changed("classifiers", labels=["humor", "other"]),
        "field personas.0: no classifier knows 'pirate'",
    ),
    "unheard on its base": (
        changed("adapters", base="qwen-2.5-7b"),
        "field adapters.0.personas: no classifier of base qwen-2.5-7b knows 'pirate'",
    ),
    "a word for no": (changed("bases", name=False), "field bases.0.name: Input should be a valid"),
    "a name for all": (changed("bases", name="All, of them"), "field bases.0.name: String should"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_file_is_refused_with_its_name_and_field(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, message = REFUSED[name]
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    user_catalogue.write_text(text)
    with pytest.raises(BadInput) as error:
        load_catalogue()
    assert str(error.value).startswith(f"{user_catalogue}: ")
    assert message in str(error.value)


def test_a_wrong_file_gives_one_line_and_status_2(charprobe: Command, user_catalogue: Path) -> None:
    user_catalogue.write_text("bases:\n  - {name: x, \x1b[31m: 1}\n")
    assert str(user_catalogue) in refused(charprobe("list"))
    user_catalogue.unlink()
    assert "fix the path in CHARPROBE_CATALOGUE" in refused(charprobe("list"))
