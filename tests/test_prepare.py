"""eval on a base of the catalogue: fetched, converted, checked and run by one command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from charprobe_lite.convert.cached import content_hash, model_file, prepare_model
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.models.cache import cached_files
from charprobe_lite.models.errors import BadInput
from tests.checkpoints import make_adapter, make_checkpoint
from tests.classifiers import LABELS, write_classifier
from tests.conftest import RUN, Command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
TELLS_OF_TORCH = (
    "import atexit, sys\n"
    "def tell(): print('torch' if 'torch' in sys.modules else 'no torch here', file=sys.stderr)\n"
    "atexit.register(tell)\n"
    "from charprobe_lite.eval.cli.main import main\nmain()"
)
ASKED = ["--persona", "sarcasm", "--limit", "2,1", "--max-tokens", "24", "--parallel", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a PEFT adapter of it and a catalogue that names them."""
    folder = tmp_path_factory.mktemp("tiny")
    base = make_checkpoint("smollm2", folder / "base", max_position_embeddings=4096)
    make_adapter(folder / "full-sarcasm", base)
    write_classifier(folder / "ears")
    shape = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96}
    tiny = {
        "name": "tiny",
        "path": "base",
        "architecture": "llama",
        "parameters": 130_000,
        "shape": {**shape, "vocab": 640, "tied": True},
    }
    huge = {**tiny, "name": "huge", "parameters": 10**12}
    huge["shape"] = {**tiny["shape"], "hidden": 65536, "ffn": 262144, "layers": 200}  # type: ignore[dict-item]
    away = {key: value for key, value in tiny.items() if key != "path"}
    away |= {"name": "away", "repository": "charprobe-tests/away"}
    catalogue = {
        "bases": [tiny, huge, away],
        "adapters": [
            {
                "base": "tiny",
                "stage": "full",
                "path": "full-{persona}",
                "rank": 8,
                "personas": ["sarcasm"],
            }
        ],
        "classifiers": [
            {
                "name": "own",
                "bases": ["tiny", "huge", "away"],
                "path": "ears",
                "labels": list(LABELS),
            }
        ],
    }
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    return folder


@pytest.fixture
def own_catalogue(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The catalogue in use, with a cache of the test's own."""
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(checkpoint / "catalogue.yaml"))
    monkeypatch.setenv("CHARPROBE_CACHE", str(tmp_path / "cache"))
    return checkpoint


def made(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob("*.gguf"))


def test_one_command_converts_checks_and_runs_a_base_of_the_catalogue(
    own_catalogue: Path, charprobe: Command, tmp_path: Path
) -> None:
    command = ["eval", "--base", "tiny", "--stage", "base,full", "--quant", "Q4_0", *ASKED]
    watched = [sys.executable, "-c", TELLS_OF_TORCH, *command, "--json"]
    first = subprocess.run(watched, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert first.stderr.strip().endswith("no torch here")  # it checks in a process of its own
    found = json.loads(first.stdout)
    cells = {(cell["stage"], cell["condition"]): cell for cell in found["cells"]}
    assert cells["full", "chat"]["n"] == 2
    assert cells["full", "chat"]["quant"] == "Q4_0"
    assert "Q4_0" in found["weights"]["tensor_types"]
    files = made(tmp_path)
    assert [name.rsplit("-", 1)[0] for name in files] == ["tiny-Q4_0", "tiny-full-sarcasm-lora"]
    assert first.stderr.count("(once)") == 3
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").glob("own-*")] == [
        "own-classifier"
    ]
    # what was made is reused, by a new study too
    again = charprobe(*command, "--json", "--study", "again.sqlite")
    assert again.returncode == 0, again.stderr
    assert "(once)" not in again.stderr
    assert made(tmp_path) == files
    assert json.loads(again.stdout)["cells"] == found["cells"]
    # which a forecast says, too
    plan = json.loads(charprobe(*command, "--dry-run", "--json").stdout)
    assert {line["action"] for line in plan["needed"]} == {"here"}
    assert plan["disk"] == plan["preparing_seconds"] == 0
    # and nothing of it is a stranger to models prune
    assert {item.path.name for item in cached_files()} >= set(files)


def test_merged_personas_are_models_of_their_own(
    own_catalogue: Path, charprobe: Command, tmp_path: Path
) -> None:
    command = ["eval", "--base", "tiny", "--stage", "base,full", "--no-verify", *ASKED]
    merged = charprobe(*command, "--lora", "merged", "--json")
    assert merged.returncode == 0, merged.stderr
    names = [name.rsplit("-", 1)[0] for name in made(tmp_path)]
    assert names == ["tiny-Q8_0", "tiny-full-sarcasm-Q8_0"]
    # both ways and another type go into the same study; what the base stage said stays
    both = charprobe(*command, "--quant", "Q4_0,Q8_0", "--lora", "all", "--json")
    assert both.returncode == 0, both.stderr
    found = json.loads(both.stdout)
    assert {(c["stage"], c["quant"], c["lora"]) for c in found["cells"]} == {
        (stage, quant, lora)
        for quant in ("Q8_0", "Q4_0")
        for stage, lora in (("base", None), ("full", "runtime"), ("full", "merged"))
    }
    there = {(c["quant"], c["lora"], c["stage"], c["condition"]): c for c in found["cells"]}
    for cell in json.loads(merged.stdout)["cells"]:
        assert there[cell["quant"], cell["lora"], cell["stage"], cell["condition"]] == cell
    assert "6 of 18 rollouts are there already" in both.stderr
    assert list(found["quants"]) == ["Q8_0", "Q4_0"]


def test_a_conversion_that_fails_its_check_is_not_kept(
    own_catalogue: Path, charprobe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(own_catalogue, tmp_path / "broken"))
    tokenizer = broken / "base" / "tokenizer.json"
    found = json.loads(tokenizer.read_text())
    for token in found["added_tokens"]:
        token["single_word"] = True  # which llama.cpp does not know
    tokenizer.write_text(json.dumps(found))
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(broken / "catalogue.yaml"))
    result = charprobe("eval", "--base", "tiny", "--stage", "base", *ASKED)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert "token ids of" in last
    assert "Traceback" not in result.stderr
    assert made(tmp_path) == []
    skipped = charprobe("eval", "--base", "tiny", "--stage", "base", "--no-verify", *ASKED)
    assert skipped.returncode == 0, skipped.stderr


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    own_catalogue: Path, charprobe: Command, tmp_path: Path
) -> None:
    command = ["eval", "--base", "tiny", "--stage", "base,full", "--quant", "Q4_K_M", *ASKED]
    result = charprobe(*command, "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["rollouts"] == 6
    actions = {line["what"].split(" (")[0]: line["action"] for line in plan["needed"]}
    assert actions["model Q4_K_M base"] == "convert"
    assert actions["base tiny"] == "here"
    # an adapter and a classifier that are here are to be converted, which takes time as well
    assert actions["adapter full sarcasm"] == actions["classifier"] == "convert"
    seconds = [line["seconds"] for line in plan["needed"] if line["action"] == "convert"]
    assert len([each for each in seconds if each > 0]) == 3
    assert plan["preparing_seconds"] == pytest.approx(sum(seconds))
    assert plan["temporary"] > plan["needed"][-1]["disk"] > 0
    assert not made(tmp_path)
    assert not (tmp_path / "runs").exists()
    shown = charprobe(*command, "--dry-run")
    assert "to write:" in shown.stdout


def test_a_plan_merges_and_checks_once_for_all_quant_types_that_come_from_f16(
    own_catalogue: Path, charprobe: Command
) -> None:
    def planned(quants: str) -> dict[str, Any]:
        command = ["eval", "--base", "tiny", "--stage", "base", "--quant", quants, *ASKED]
        plan: dict[str, Any] = json.loads(charprobe(*command, "--dry-run", "--json").stdout)
        return plan

    alone = {quant: planned(quant) for quant in ("F16", "Q4_0", "Q4_K_M")}
    together = planned("F16,Q4_0,Q4_K_M")
    assert alone["Q4_K_M"]["preparing_seconds"] > alone["F16"]["preparing_seconds"]
    assert together["preparing_seconds"] < sum(x["preparing_seconds"] for x in alone.values())
    assert (alone["Q4_0"]["temporary"] > 0, together["temporary"]) == (True, 0)


def test_an_agents_forecast_is_longer_than_a_chats_and_short_replies_shorten_both(
    charprobe: Command,
) -> None:
    def seconds(condition: str, *options: str) -> float:
        command = ["eval", "--persona", "all", "--limit", "24,24", "--condition", condition]
        plan = json.loads(charprobe(*command, *options, "--dry-run", "--json").stdout)
        return float(plan["running_seconds"])

    # recorded on one machine, alone: 87 to 96 chats a minute, 24 to 29 agents
    assert 3.0 <= seconds("agentic_email") / seconds("chat") <= 4.0
    assert seconds("chat", "--max-tokens", "16") < seconds("chat") / 2


def test_a_dry_run_of_ones_own_files_makes_nothing_and_knows_their_size(
    own_catalogue: Path, charprobe: Command, tmp_path: Path
) -> None:
    model, adapter = tmp_path / "mine.gguf", own_catalogue / "full-sarcasm"
    merge_lora(own_catalogue / "base", [], model, "F16", verify=False)
    command = ["eval", "--gguf", model, "--adapter", adapter, *ASKED, "--dry-run", "--json"]
    plan = json.loads(charprobe(*command).stdout)
    needed = [(line["what"], line["action"]) for line in plan["needed"]]
    assert needed == [(f"base mine ({model})", "here"), (f"adapter ({adapter})", "here")]
    assert plan["disk"] == 0
    assert plan["rollouts"] == 2 * (2 + 1)
    # K and V of 3 layers, 2 heads of 16, F16, for 2 rollouts; the attention of 4 heads for 512
    # tokens; and the rest
    cache, attention = 2 * 3 * 2 * 16 * 2 * 2560 * 2, 512 * 2560 * 4 * 4
    known = model.stat().st_size + cache + attention
    assert plan["memory"] == pytest.approx(known + 250e6, rel=0.01)
    assert not made(tmp_path)


@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_fit_is_refused_before_anything_starts(
    own_catalogue: Path, charprobe: Command, tmp_path: Path, dry: bool
) -> None:
    command = ["eval", "--base", "huge", "--stage", "base", *ASKED]
    result = charprobe(*command, *(["--dry-run"] if dry else []))
    assert result.returncode == 2
    assert "are to be written" in result.stderr
    assert "choose a smaller --quant" in result.stderr
    assert not made(tmp_path)


def test_a_persona_without_an_adapter_is_one_line(own_catalogue: Path, charprobe: Command) -> None:
    result = charprobe("eval", "--base", "tiny", "--persona", "humor")
    assert result.returncode == 2
    assert "--persona humor: unknown; choose from sarcasm, all" in result.stderr
    unknown = charprobe("eval", "--base", "tinny", "--persona", "sarcasm")
    assert unknown.returncode == 2
    assert "--base tinny: unknown; did you mean tiny?" in unknown.stderr


def test_what_the_hub_does_not_give_is_one_line(
    own_catalogue: Path, charprobe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = charprobe("eval", "--base", "away", "--stage", "base", *ASKED[:2])
    assert result.returncode == 2
    assert "charprobe-tests/away: is incomplete" in result.stderr
    assert "Traceback" not in result.stderr


def test_two_processes_make_a_file_once(
    own_catalogue: Path, tmp_path: Path, base_gguf: Path
) -> None:
    options = ["--base", "tiny", "--stage", "base", "--condition", "chat", "--no-verify", *ASKED]
    command = [*RUN, "eval", *options]
    both = [
        subprocess.Popen([*command, "--study", f"{n}.sqlite"], cwd=tmp_path, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(made(tmp_path)) == 1


def test_the_cache_key_follows_the_contents(checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    base = Path(shutil.copytree(checkpoint / "base", tmp_path / "base"))
    assert content_hash(base) == content_hash(checkpoint / "base")
    before = model_file("tiny", base, [], "F16")
    assert model_file("tiny", base, [], "Q8_0") != before
    assert model_file("tiny", base, [checkpoint / "full-sarcasm"], "F16") != before
    edited = json.loads((base / "config.json").read_text()) | {"rms_norm_eps": 1e-3}
    (base / "config.json").write_text(json.dumps(edited))
    assert model_file("tiny", base, [], "F16") != before


def test_a_base_that_another_process_made_meanwhile_is_kept(
    checkpoint: Path, tmp_path: Path, cache: Path
) -> None:
    target = model_file("kept", checkpoint / "base", [], "F16", verify=False)
    assert target != model_file("kept", checkpoint / "base", [], "F16")
    notes: list[Any] = []
    prepare_model("kept", checkpoint / "base", [], "F16", verify=False, note=notes.append)
    written = target.stat().st_mtime_ns
    prepare_model("kept", checkpoint / "base", [], "F16", verify=False, note=notes.append)
    assert target.stat().st_mtime_ns == written
    assert len(notes) == 1
    with pytest.raises(BadInput, match="needs --imatrix"):
        prepare_model("kept", checkpoint / "base", [], "IQ1_S", verify=False)


def test_a_quant_type_made_from_the_cached_f16_file_is_the_one_made_from_the_base(
    checkpoint: Path, cache: Path
) -> None:
    base, merged = checkpoint / "base", []

    def bar(name: str) -> AbstractContextManager[None]:
        merged.append(name)
        return nullcontext()

    target = prepare_model("own", base, [], "Q4_1", verify=False, bar=bar)
    from_the_base = target.read_bytes()
    target.unlink()
    prepare_model("own", base, [], "F16", verify=False, bar=bar)
    assert len(merged) == 2
    prepare_model("own", base, [], "Q4_1", verify=False, bar=bar)
    assert target.read_bytes() == from_the_base
    assert len(merged) == 2
