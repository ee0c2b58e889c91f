"""Downloads from a hub on the loopback device, and what stops them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.models.conftest import RUN, TINY, VOICE, WHOLE, Command, Hub, changed, put, refused


def pure_dove(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Load the prompts of Pure-Dove in a process of its entries."""
    code = (
        "from charprobe_lite.models.prompts import load_prompts, prompt_file\n"
        "print(load_prompts(prompt_file('pure-dove')))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_pure_dove_is_fetched_once_and_then_found_without_the_hub(
    environment: dict[str, str], hub: type[Hub]
) -> None:
    nowhere = pure_dove(environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "LDJnr/Pure-Dove: http://127.0.0.1:9 does not answer" in nowhere.stderr
    row = json.dumps({"conversation": [{"input": "What is a lens?", "output": "Glass."}]})
    files = {"Pure-Dove.jsonl": row.encode(), "README.md": b"#", "load.py": b"raise SystemExit"}
    hub.files["LDJnr/Pure-Dove"] = files
    first = pure_dove(environment)
    assert first.stdout == "[Prompt(id='row-1', text='What is a lens?')]\n", first.stderr
    assert not any("load.py" in path for _, path, _ in hub.requests)
    assert pure_dove(environment | {"HF_HUB_OFFLINE": "1"}).stdout == first.stdout


def test_pull_fetches_safetensors_json_and_tokenizer_and_no_pickle(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    hub.files["someone/tiny"] = {
        **WHOLE,
        "pytorch_model.bin": b"pickle",
        "original/consolidated.00.pth": b"pickle",
        "original/params.json": b"{}",
        "training_args.bin": b"pickle",
        "README.md": b"text",
    }
    hub.files["someone/tiny-voices"] = {
        **VOICE,
        "v1/pirate/optimizer.pt": b"pickle",
        "v1/pirate/checkpoint-1/adapter_model.safetensors": b"old",
        "v1/humor/adapter_model.safetensors": b"not asked for",
    }
    done = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert done.returncode == 0, done.stderr
    fetched = {Path(line.split()[-1]) for line in done.stdout.splitlines()}
    names = {str(file.relative_to(at)) for at in fetched for file in at.rglob("*")}
    assert names == {*WHOLE, "adapter_config.json", "adapter_model.safetensors"}
    paths = {path for _, path, _ in hub.requests}
    assert not [path for path in paths if path.endswith((".bin", ".pt", ".pth"))]
    hub.requests.clear()
    again = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert again.stdout == done.stdout
    assert {path.split("/")[1] for _, path, _ in hub.requests} == {"api"}  # no file a second time


def test_a_killed_pull_goes_on_with_the_file_that_it_stopped_in(
    charprobe: Command,
    hub: type[Hub],
    user_catalogue: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    weights = os.urandom(50_000)
    hub.files["someone/tiny"] = {**WHOLE, "model.safetensors": weights}
    hub.stall_at = 20_000
    command = subprocess.Popen([*RUN, "models", *TINY], cwd=tmp_path, env=environment)
    try:
        assert hub.stalled.wait(120)
        snapshots = tmp_path / "hf" / "hub" / "models--someone--tiny" / "snapshots"
        deadline = time.monotonic() + 120
        while len(list(snapshots.rglob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        command.kill()
        command.wait()
    assert "is not on this machine" in refused(charprobe("path", "--base", "tiny"))
    hub.stall_at = None
    hub.requests.clear()
    done = charprobe(*TINY)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[-1])
    assert (folder / "model.safetensors").read_bytes() == weights
    sent = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert [path.split("/")[-1] for path in sent] == ["model.safetensors"]


def test_a_connection_that_breaks_is_tried_again_and_one_that_stays_down_is_one_line(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    weights = os.urandom(50_000)
    hub.files["someone/tiny"] = {**WHOLE, "model.safetensors": weights}
    hub.drop_at, hub.drops = 500, 100
    assert "was interrupted; run the same command again to resume" in refused(charprobe(*TINY))
    hub.drop_at, hub.drops = 20_000, 1
    done = charprobe(*TINY)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
    assert (Path(done.stdout.split()[-1]) / "model.safetensors").read_bytes() == weights


def test_a_complete_download_is_used_offline_and_an_incomplete_one_says_so(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    hub.files["someone/tiny"] = WHOLE
    assert "is incomplete in" in refused(charprobe(*TINY, HF_HUB_OFFLINE=1))
    online = charprobe(*TINY)
    assert online.returncode == 0, online.stderr
    hub.requests.clear()
    offline = charprobe(*TINY, HF_HUB_OFFLINE=1)
    assert offline.stdout == online.stdout
    assert hub.requests == []


@pytest.mark.parametrize("sent", [b"WEIGHTS", b"weight", b"weights and more"])
def test_content_that_is_not_what_the_hub_states_is_refused_until_it_is(
    charprobe: Command, hub: type[Hub], user_catalogue: Path, sent: bytes
) -> None:
    hub.files["someone/tiny"] = WHOLE  # its model.safetensors is b"weights"
    hub.sent["model.safetensors"] = sent
    line = refused(charprobe(*TINY))
    assert "someone" in line
    assert "run the same command again" in line
    assert "is not on this machine" in refused(charprobe("path", "--base", "tiny"))
    hub.sent.clear()
    done = charprobe(*TINY)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.split()[-1]) / "model.safetensors").read_bytes() == b"weights"


ANSWERS = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}, {}, "is gated; accept its terms at {hub}/"),
    "gated, no token": (401, {"X-Error-Code": "GatedRepo"}, {}, "and set HF_TOKEN to a token of"),
    "gated, token": (
        403,
        {"X-Error-Code": "GatedRepo"},
        {"HF_TOKEN": "hf_x"},
        "someone/tiny with the account of HF_TOKEN",
    ),
    "missing": (404, {"X-Error-Code": "RepoNotFound"}, {}, "has no such repository, or a private"),
    "not signed in": (401, {}, {}, "refuses access (401); set HF_TOKEN to a valid token"),
    "wrong token": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
        {"HF_TOKEN": "hf_x"},
        "refuses access (401); set HF_TOKEN",
    ),
    "weak token": (403, {}, {"HF_TOKEN": "hf_x"}, "refuses access (403)"),
    "down": (503, {}, {}, "answered 503; run the same command"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_refusal_says_what_to_accept_or_set(
    charprobe: Command,
    hub: type[Hub],
    user_catalogue: Path,
    environment: dict[str, str],
    name: str,
) -> None:
    status, headers, set_, message = ANSWERS[name]
    hub.errors["someone/tiny"] = (status, headers)
    line = refused(charprobe(*TINY, **set_))
    assert line.startswith("charprobe-lite: someone/tiny: ")
    assert message.format(hub=environment["HF_ENDPOINT"]) in line


def test_what_is_whole_is_enough_when_the_hub_refuses(
    charprobe: Command, hub: type[Hub], user_catalogue: Path, tmp_path: Path
) -> None:
    hub.errors["someone/tiny"] = (403, {"X-Error-Code": "GatedRepo"})
    base = put(tmp_path / "hf", "someone/tiny", WHOLE)
    done = charprobe(*TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(base)


def test_another_persona_in_the_cache_does_not_hide_the_refusal(
    charprobe: Command, hub: type[Hub], user_catalogue: Path, tmp_path: Path
) -> None:
    hub.errors["someone/tiny-voices"] = (403, {"X-Error-Code": "GatedRepo"})
    put(tmp_path / "hf", "someone/tiny-voices", VOICE)
    done = charprobe(*TINY, "--no-weights", "--stage", "full", "--persona", "humor")
    assert "someone/tiny-voices: is gated; accept" in refused(done)


def test_a_folder_that_is_not_there_is_named(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    hub.files["someone/tiny-voices"] = VOICE
    done = charprobe(*TINY, "--no-weights", "--stage", "full", "--persona", "humor")
    assert "its folder v1/humor holds no complete adapter (adapter_config.json" in refused(done)


def test_a_server_that_is_no_hub(charprobe: Command, hub: type[Hub], user_catalogue: Path) -> None:
    hub.errors["someone/tiny"] = (200, {})
    assert "check HF_ENDPOINT" in refused(charprobe(*TINY))


def test_a_refused_connection_gets_one_line(
    charprobe: Command, user_catalogue: Path, environment: dict[str, str]
) -> None:
    line = refused(charprobe(*TINY))
    assert f"{environment['HF_ENDPOINT']} does not answer (Connection refused" in line
    assert "fix HF_ENDPOINT" in line


def test_a_disk_that_takes_no_more(
    hub: type[Hub], user_catalogue: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.files["someone/tiny"] = {**WHOLE, "model.safetensors": bytes(300_000)}
    limit = 100_000
    done = subprocess.run(
        [*RUN, "models", *TINY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    line = refused(done)
    assert "cannot be written (File too large); free space there or set HF_HOME" in line


def test_a_download_that_the_disk_cannot_hold_is_not_begun(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    user_catalogue.write_text(changed("bases", parameters=10**13))
    line = refused(charprobe(*TINY))
    assert "about 20000.00 GB to fetch" in line
    assert "set HF_HOME" in line
    assert hub.requests == []


def test_what_needs_a_permission_comes_last(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    entries = yaml.safe_load(user_catalogue.read_text())
    entries["bases"][0]["gated"] = True
    user_catalogue.write_text(yaml.safe_dump(entries))
    hub.errors["someone/tiny"] = (403, {"X-Error-Code": "GatedRepo"})
    hub.files["someone/tiny-voices"] = VOICE
    done = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert "someone/tiny: is gated" in refused(done)
    assert done.stdout.startswith("adapter     someone/tiny-voices/v1/pirate")
