"""Chat templates of other people's files, against transformers."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.models.chat_template import fold_system, render_chat, takes_system
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.llama import Model
from charprobe_lite.runtime.template_worker import TemplateWorker
from tests.checkpoints import copy_fields, make_checkpoint
from tests.conftest import Command

CHAT = [
    {"role": "system", "content": 'Say "<b>", é and \u2019.'},
    {"role": "user", "content": "Hello & goodbye"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And now?"},
]
LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + LOOP
)
DROPS = LOOP.replace("messages %}[", "messages if m.role != 'system' %}[")


@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        GENERATION,
        "{{ messages | tojson }}",
        "{{ messages[0] | tojson(ensure_ascii=False) }}",
        "{{ messages[0] | tojson(ensure_ascii=True, indent=2) }}",
        "{{ messages[0] | tojson(separators=(',', ':')) }}",
        "{{ {'b': 1, 'a': [true, none]} | tojson(sort_keys=True) }}",
        "{% for m in messages %}{% if loop.first %}{% break %}{% endif %}{{ m }}{% endfor %}",
        "{% if tools is none and documents is not defined %}{% endif %}"
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}",
    ],
)
def test_a_template_is_rendered_as_transformers_renders_it(template: str) -> None:
    (expected,), _ = render_jinja_template(
        [CHAT], chat_template=template, add_generation_prompt=True
    )
    assert render_chat(template, CHAT) == expected


def test_a_date_in_a_template_is_the_same_every_day() -> None:
    insists = "{{ strftime_now('%d %b %Y') }}"
    asks = "{% if strftime_now is defined %}now{% else %}26 Jul 2024{% endif %}"
    assert render_chat(insists, CHAT) == render_chat(asks, CHAT) == "26 Jul 2024"


@pytest.mark.parametrize("template", [REFUSES, DROPS])
def test_a_template_without_system_prompts_is_known(template: str) -> None:
    assert not takes_system(partial(render_chat, template))
    assert takes_system(partial(render_chat, LOOP))
    folded = fold_system(CHAT)
    assert [turn["role"] for turn in folded] == ["user", "assistant", "user"]
    text = render_chat(template, folded)
    assert text.startswith('[user]Say "<b>", é and \u2019.\n\nHello & goodbye[assistant]Hi.')
    assert fold_system(CHAT[1:]) == CHAT[1:]


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama3", tmp_path_factory.mktemp("base") / "llama3")


def converted(base: Path, file: Path, template: str, **tokenizer: Any) -> Model:
    (base / "chat_template.jinja").write_text(template, "utf-8")
    settings = json.loads((base / "tokenizer_config.json").read_text()) | tokenizer
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    merge_lora(base, [], file, "F32", verify=False)
    return Model(file)


def test_a_model_whose_template_refuses_system_prompts_gets_them_in_the_first_turn(
    llama3: Path, tmp_path: Path, cache: Path
) -> None:
    with closing(converted(llama3, tmp_path / "model.gguf", REFUSES)) as model:
        assert not model.takes_system
        assert model.render(CHAT) == render_chat(REFUSES, fold_system(CHAT))


def test_a_model_without_a_template_gets_one_from_a_file(
    llama3: Path, tmp_path: Path, cache: Path, charprobe: Command
) -> None:
    base = tmp_path / "pretrained"
    shutil.copytree(llama3, base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "mine.jinja").write_text(LOOP, "utf-8")
    (tmp_path / "bad.jinja").write_text("{{ raise_exception('never') }}", "utf-8")
    merge = ("convert", "merge", "--base", base, "--no-verify", "-o")
    assert charprobe(*merge, "plain.gguf").returncode == 0
    assert charprobe(*merge, "chat.gguf", "--chat-template", "mine.jinja").returncode == 0
    with (
        closing(Model(tmp_path / "plain.gguf")) as plain,
        pytest.raises(BadInput, match=r"chat_template: missing.*convert merge --chat-template"),
    ):
        plain.render(CHAT)
    with closing(Model(tmp_path / "chat.gguf")) as model:
        assert model.render(CHAT) == render_chat(LOOP, CHAT)
    refused = charprobe(*merge, "bad.gguf", "--chat-template", "bad.jinja")
    assert refused.returncode == 2
    assert "bad.jinja: chat template: fails on a chat: never" in refused.stderr


@pytest.mark.parametrize("begins", ["{{ bos_token }}", "\n{{ bos_token }}", ""])
def test_a_prompt_begins_with_one_bos_and_never_ends_with_eos(
    llama3: Path, tmp_path: Path, cache: Path, begins: str
) -> None:
    import gguf

    template = begins + LOOP
    with closing(converted(llama3, tmp_path / "plain.gguf", template, add_bos_token=True)) as plain:
        expected_ids = plain.tokenize(plain.render(CHAT))
    # the same file with add_eos_token, which some tools write
    reader = gguf.GGUFReader(tmp_path / "plain.gguf")
    writer = gguf.GGUFWriter(tmp_path / "eos.gguf", "llama")
    copy_fields(reader, writer)
    writer.add_add_eos_token(True)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish_gguf(writer)
    with closing(Model(tmp_path / "eos.gguf")) as model:
        ids = model.tokenize(model.render(CHAT))
    bos, eos = (reader.fields[f"tokenizer.ggml.{n}_token_id"].contents() for n in ("bos", "eos"))
    assert ids == expected_ids
    assert ids.count(bos) == 1
    assert eos not in ids


JOINS_ITSELF = (
    "{% set ns = namespace(s='x' * 1000) %}"
    "{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}"
)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LATER = "{% if messages | length > 1 %}" + LOOPS + "{% endif %}" + LOOP


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (JOINS_ITSELF, "needs too much memory"),
        (LOOPS, "takes more than 2 s"),
        ("{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "at most 4000000"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "chat template: "),
    ],
)
def test_a_template_has_two_seconds_and_a_quarter_of_a_gigabyte(template: str, said: str) -> None:
    with TemplateWorker() as worker:
        with pytest.raises(BadInput, match=said):
            worker.render(template, CHAT)
        # and the next one is rendered as if nothing had been
        assert worker.render(LOOP, CHAT, generate=False) == render_chat(LOOP, CHAT)


def test_a_worker_renders_what_the_sandbox_renders() -> None:
    chat = [{"role": "user", "content": 'tab\t "quote" \u2028 \U0001f600'}] * 3
    with TemplateWorker() as worker:
        for template in (LOOP, GENERATION, "{{ messages | tojson }}{{ bos_token }}{{ eos_token }}"):
            written = render_chat(template, chat, bos="<s>", eos="</s>")
            assert worker.render(template, chat, bos="<s>", eos="</s>") == written


def test_a_template_that_explodes_in_the_second_turn_ends_its_rollouts_alone(
    llama3: Path, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    converted(llama3, tmp_path / "model.gguf", LATER).close()

    def rollout(turns: int) -> Rollout:
        messages: tuple[dict[str, str], ...] = ()
        for _ in range(turns):
            messages = (*messages, {"role": "user", "content": "Go on."})
            completion = yield Request(messages, 4)
        return completion.finish

    with Engine(tmp_path / "model.gguf", parallel=2, context=256) as engine:
        jobs = [Job(key, key, rollout(1 + key % 2)) for key in range(4)]
        finishes = {job.key: finish for job, finish in engine.run(jobs)}
    assert {finishes[0], finishes[2]} <= {"stop", "length"}
    assert (finishes[1], finishes[3]) == ("template", "template")
    assert [record.message for record in caplog.records if "takes more than" in record.message] == [
        "model.gguf: chat template: takes more than 2 s"
    ]
