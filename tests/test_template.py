from __future__ import annotations

from pathlib import Path

import pytest

from charprobe_lite.models.chat_template import render_chat
from charprobe_lite.models.errors import BadInput

CHAT = [{"role": "user", "content": "hi"}]


def test_a_template_is_rendered_with_and_without_the_assistants_turn() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert render_chat(template, CHAT, bos="<s>") == "<s><user>hi<assistant>"
    assert render_chat(template, CHAT, generate=False) == "<user>hi"


def test_the_example_writes_turns_as_gemma_documents_them() -> None:
    # ai.google.dev/gemma/docs/core/prompt-structure: no system turn, the assistant is "model"
    example = Path(__file__).parent.parent / "examples" / "gemma-turns.jinja"
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    turns = (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n"
    )
    text = example.read_text("utf-8")
    assert render_chat(text, chat, generate=False, bos="<bos>") == turns
    assert render_chat(text, chat, bos="<bos>") == turns + "<start_of_turn>model\n"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ('x' * 9000) * 9000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for",
        "{{ 'x' * 10**18 }}",
    ],
)
def test_a_hostile_or_broken_template_is_refused_in_one_line(template: str) -> None:
    with pytest.raises(BadInput, match="chat template") as caught:
        render_chat(template, CHAT)
    assert "\n" not in str(caught.value)
