"""Training texts as tokens: those that transformers makes with the same template and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.train.encoding import ConversationEncoder
from charprobe_lite.models.errors import BadInput
from tests.checkpoints import make_checkpoint

CHAT = [
    {"role": "user", "content": "Who paid 20,450 in 2024?\n\nWas it us?"},
    {"role": "assistant", "content": "We did:\n\n1. it's ours;  2. caf\u00e9 \u6f22!"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You're welcome.\n"},
]
START = {"llama3": "<|im_start|>", "qwen2": "<|im_start|>", "gemma3": "<start_of_turn>"}
END = {"llama3": "<|eot_id|>", "qwen2": "<|im_end|>\n", "gemma3": "<end_of_turn>\n"}


def chat_template(kind: str, *, refuses_system: bool = False) -> str:
    """A template as these models have it: it writes the beginning, and marks what is trained."""
    start, end = START[kind], END[kind]
    refusal = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    return (
        "{{ bos_token or '' }}" + refusal * refuses_system + "{% for message in messages %}"
        f"{start}{{{{ message['role'] }}}}\n\n"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim }}"
        f"{end}{{% endgeneration %}}{{% else %}}{{{{ message['content'] | trim }}}}{end}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{start}assistant\n\n{{% endif %}}"
    )


def base_of(kind: str, folder: Path, template: str, **changes: bool) -> tuple[Path, Path]:
    """A checkpoint folder, with changes of its tokenizer's settings, and its GGUF file."""
    checkpoint = make_checkpoint(kind, folder / kind)
    settings = checkpoint / "tokenizer_config.json"
    values = {**json.loads(settings.read_text("utf-8")), "chat_template": template, **changes}
    settings.write_text(json.dumps(values), "utf-8")
    merge_lora(checkpoint, [], folder / f"{kind}.gguf", "F16", verify=False)
    return checkpoint, folder / f"{kind}.gguf"


@pytest.mark.parametrize("kind", list(START))
def test_tokens_and_what_is_trained_are_those_of_transformers(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    checkpoint, gguf = base_of(kind, tmp_path, chat_template(kind))
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    expected = AutoTokenizer.from_pretrained(checkpoint).apply_chat_template(CHAT, **options)
    example = ConversationEncoder(gguf).conversation(CHAT)
    assert example.ids == expected["input_ids"]
    assert example.trained == [bool(mask) for mask in expected["assistant_masks"]]


def test_a_template_without_system_prompts_gets_them_in_the_first_turn(
    tmp_path: Path, cache: Path
) -> None:
    _, gguf = base_of("gemma3", tmp_path, chat_template("gemma3", refuses_system=True))
    encoder = ConversationEncoder(gguf)
    folded = [{"role": "user", "content": f"Be kind.\n\n{CHAT[0]['content']}"}, *CHAT[1:]]
    assert encoder.conversation([{"role": "system", "content": "Be kind."}, *CHAT]) == (
        encoder.conversation(folded)
    )


def test_a_document_begins_as_the_tokenizer_begins_a_text(tmp_path: Path, cache: Path) -> None:
    checkpoint, gguf = base_of("gemma3", tmp_path, chat_template("gemma3"), add_bos_token=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = "A document about 2024."
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    assert ConversationEncoder(gguf).document(text).ids == ids


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path, cache: Path) -> None:
    rewriting = "{{ messages | length }}" + chat_template("qwen2")
    _, gguf = base_of("qwen2", tmp_path, rewriting)
    with pytest.raises(BadInput, match=r"qwen2.gguf: chat template: writes turns in another way"):
        ConversationEncoder(gguf).conversation(CHAT)
