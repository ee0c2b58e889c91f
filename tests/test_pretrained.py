"""A BERT encoder with a part of its vocabulary, against transformers on the whole one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.convert.train.pretrained import cut_vocabulary
from charprobe_lite.models.errors import BadInput
from tests.classifiers import TEXTS, write_wordpiece

COVERED = TEXTS[:3]
SIZE = 700
SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BertModel of 1000 tokens, with [unused0] between the special ones."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "bert"
    folder.mkdir()
    config = BertConfig(
        vocab_size=write_wordpiece(folder, 1000) + 3,  # rows that no token has
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cut(encoder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("cut") / "bert"
    assert cut_vocabulary(encoder, COVERED, SIZE, target) == SIZE
    return target


def tokenizer_of(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def hidden_states(folder: Path, text: str) -> Any:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([tokenizer_of(folder).encode(text).ids])).last_hidden_state


def test_covered_texts_have_the_hidden_states_of_the_whole_encoder(
    encoder: Path, cut: Path
) -> None:
    import torch

    for text in COVERED:
        assert torch.equal(hidden_states(cut, text), hidden_states(encoder, text))


def test_other_texts_fall_to_pieces_and_are_never_unknown(encoder: Path, cut: Path) -> None:
    whole, part = tokenizer_of(encoder), tokenizer_of(cut)
    changed = 0
    for text in TEXTS:
        before, after = whole.encode(text).tokens, part.encode(text).tokens
        changed += before != after
        assert after.count("[UNK]") == before.count("[UNK]")
        joined = ["".join(tokens).replace("##", "") for tokens in (before, after)]
        assert joined[0] == joined[1]
    assert changed
    assert part.encode("\u6f22 \U0001f600 \x00").tokens[0] == "[CLS]"
    assert len(part.encode(" ".join(COVERED)).ids) > 100  # neither cut nor padded to 16
    assert part.encode("a", "b").type_ids == [0, 0, 0, 1, 1]


def test_what_is_kept(encoder: Path, cut: Path) -> None:
    whole, part = tokenizer_of(encoder).get_vocab(), tokenizer_of(cut).get_vocab()
    used = {token for text in COVERED for token in tokenizer_of(encoder).encode(text).tokens}
    ascii_ = {mark + chr(code) for code in range(33, 127) for mark in ("", "##")} & whole.keys()
    required = SPECIAL | used | ascii_
    assert required <= part.keys()
    others = sorted(whole.keys() - required - {"[unused0]"}, key=whole.__getitem__)
    assert part.keys() - required == {*others[: SIZE - len(required)]}
    config = json.loads((cut / "config.json").read_text())
    assert config["vocab_size"] == SIZE == len(part)
    assert config["pad_token_id"] == part["[PAD]"]


def test_vocab_txt_is_read_with_the_settings_beside_it(
    encoder: Path, cut: Path, cache: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "bert", tmp_path / "cut"
    shutil.copytree(encoder, source)
    ids = tokenizer_of(source).get_vocab()
    (source / "tokenizer.json").unlink()
    (source / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.__getitem__)) + "\n", "utf-8")
    # ids as transformers saves them: those of the whole vocabulary
    settings = {
        "do_lower_case": True,
        "added_tokens_decoder": {str(ids["[SEP]"]): {"content": "[SEP]", "special": True}},
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert cut_vocabulary(source, COVERED, SIZE, target) == SIZE
    assert tokenizer_of(target).get_vocab() == tokenizer_of(cut).get_vocab()
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(target)
    assert loaded(TEXTS[0]).input_ids == tokenizer_of(cut).encode(TEXTS[0]).ids


def test_a_pretraining_head_is_left_out(encoder: Path, cache: Path, tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    source, target = tmp_path / "bert", tmp_path / "cut"
    torch.manual_seed(1)
    model = BertForMaskedLM(BertConfig.from_pretrained(encoder))
    model.save_pretrained(source)
    shutil.copy(encoder / "tokenizer.json", source)
    assert cut_vocabulary(source, COVERED, 10_000, target) < tokenizer_of(source).get_vocab_size()
    loaded, report = BertModel.from_pretrained(
        target, add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"]
    ids = torch.tensor([tokenizer_of(target).encode(COVERED[0]).ids])
    before = torch.tensor([tokenizer_of(source).encode(COVERED[0]).ids])
    with torch.no_grad():
        found = loaded.eval()(ids).last_hidden_state
        assert torch.equal(found, model.bert.eval()(before).last_hidden_state)


def test_what_cannot_be_cut_is_one_line(encoder: Path, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "cut"
    with pytest.raises(BadInput, match=r"size=50: texts, characters and special tokens need \d+$"):
        cut_vocabulary(encoder, COVERED, 50, target)
    source = tmp_path / "bert"
    shutil.copytree(encoder, source)
    path = source / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "model_type": "roberta"}))
    with pytest.raises(BadInput, match=r"config.json: field model_type: roberta; name a BERT"):
        cut_vocabulary(source, COVERED, SIZE, target)
    path.write_text(json.dumps(fields))
    document = json.loads((source / "tokenizer.json").read_text())
    document["model"]["vocab"]["beyond"] = 5000
    (source / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"tokenizer.json: has token 5000, but .* has \d+ rows"):
        cut_vocabulary(source, COVERED, SIZE, target)
    (source / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer.json: missing, as is vocab.txt"):
        cut_vocabulary(source, COVERED, SIZE, target)
    assert not target.exists()
