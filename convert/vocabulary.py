"""A checkpoint's tokenizer as GGUF metadata: tokens, types, merges or scores, special tokens.

Read from tokenizer.json alone. Byte-level BPE tokenizers are told apart by their pre-tokenizer's
regular expressions, which llama.cpp has in code under a name; an unknown one is refused,
because the model would read other tokens than it was trained on.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType

from charprobe_lite.convert.architectures import pre_tokenizers
from charprobe_lite.convert.safetensors import read_object
from charprobe_lite.models.chat_template import QUESTION
from charprobe_lite.models.errors import BadInput, bad_input
from charprobe_lite.models.files import read_text
from charprobe_lite.models.gguf_header import MORE_END_TOKENS
from charprobe_lite.runtime.template_worker import TemplateWorker

SPACE = "\u2581"  # SentencePiece's mark
SPECIAL = re.compile(r"<\|.*\|>|<unused\d+>|<pad>|<mask>|<end_of_turn>")
"""Control tokens that some published tokenizers forget to mark."""
ENDS_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")


@dataclass(frozen=True)
class Vocabulary:
    """A checkpoint folder's tokenizer, which ``write`` writes as metadata, and chat template."""

    write: Callable[[gguf.GGUFWriter], None]
    template: str | None


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read a checkpoint folder's tokenizer and chat template.

    The tokens are padded to ``size`` (the rows of the embedding). Raises BadInput naming the
    file and the field when one is missing or unknown, or the template fails.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_object(path)
    try:
        return _vocabulary(tokenizer, folder, size)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(f"{path}: field {error}: missing or not as expected") from None


def tokenizer_folder(adapters: Sequence[Path], rows: int) -> Path | None:
    """The last PEFT folder with a tokenizer of its own for an embedding of ``rows``, if any.

    One with more tokens than rows had tokens added that no model was trained with.
    """
    found = None
    for folder in adapters:
        path = folder / "tokenizer.json"
        if path.is_file() and _largest_id(read_object(path), path) < rows:
            found = folder
    return found


def _largest_id(tokenizer: dict[str, Any], path: Path) -> int:
    with bad_input(f"{path}: not a tokenizer", AttributeError, KeyError, TypeError, ValueError):
        added = [int(entry["id"]) for entry in tokenizer.get("added_tokens") or []]
        return max([*map(int, tokenizer["model"]["vocab"].values()), *added], default=0)


def _vocabulary(tokenizer: dict[str, Any], folder: Path, size: int) -> Vocabulary:
    path, model = folder / "tokenizer.json", tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        raise BadInput(f"{path}: field model.type: {model['type']} is not converted, BPE is")
    added = {int(entry["id"]): entry for entry in tokenizer.get("added_tokens") or []}
    by_id = {index: token for token, index in model["vocab"].items()}
    by_id.update({index: entry["content"] for index, entry in added.items()})
    if not by_id or max(by_id) >= size or min(by_id) < 0:
        wrong = [index for index in by_id if not 0 <= index < size] or [0]
        raise BadInput(f"{path}: token {wrong[0]} lies beyond the embedding's {size} rows")
    if not_text := [index for index, token in by_id.items() if not isinstance(token, str)]:
        raise BadInput(f"{path}: token {not_text[0]}: its content is no text")
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    sentencepiece = bool(model.get("byte_fallback"))
    _check_normalizer(tokenizer.get("normalizer"), sentencepiece, path)
    tokens, types = _tokens(by_id, added, size, sentencepiece)
    config = folder / "tokenizer_config.json"
    settings = read_object(config) if config.is_file() else {}
    special = _special(settings, {token: index for index, token in by_id.items()}, folder)
    more_ends = _add_listed_ends(special, folder, size)
    pre = "default" if sentencepiece else _pre_tokenizer(tokenizer, path)
    pairs = [f"{left} {right}" for left, right in merges]
    scores = _scores(tokens, merges) if sentencepiece else []
    adds_bos = _adds_bos(tokenizer, special.get("bos"), settings)

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama" if sentencepiece else "gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if sentencepiece:
            writer.add_token_scores(scores)
            writer.add_add_space_prefix(False)
        else:
            writer.add_token_merges(pairs)
        for role, index in special.items():
            getattr(writer, f"add_{role}_token_id")(index)
        writer.add_add_bos_token(adds_bos)
        if more_ends:
            writer.add_string(MORE_END_TOKENS, ",".join(map(str, more_ends)))

    return Vocabulary(write, read_template(folder))


def _tokens(
    by_id: dict[int, str], added: dict[int, dict[str, Any]], size: int, sentencepiece: bool
) -> tuple[list[str], list[int]]:
    """Text and type of every id; rows of the embedding that no token has are padding."""
    tokens, types = [], []
    for index in range(size):
        token = by_id.get(index)
        if token is None:
            kind, token = TokenType.UNUSED, f"[PAD{index}]"
        elif index in added and (added[index].get("special") or SPECIAL.fullmatch(token)):
            is_unknown = token == "<unk>" and sentencepiece
            kind = TokenType.UNKNOWN if is_unknown else TokenType.CONTROL
        elif index in added:
            # llama.cpp finds these in the text itself, where a space is a space
            kind = TokenType.USER_DEFINED
            token = token.replace(SPACE, " ") if sentencepiece else token
        elif sentencepiece and len(token) == 6 and token.startswith("<0x"):
            kind = TokenType.BYTE
        else:
            kind = TokenType.NORMAL
        tokens.append(token)
        types.append(int(kind))
    return tokens, types


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Minus the rank of the first merge that makes a token.

    SentencePiece joins the pair whose piece has the highest score; tokenizer.json lists the
    merges in that order, so that the ranks order the pieces as the scores did.
    """
    ranks = {left + right: n for n, (left, right) in reversed([*enumerate(merges)])}
    return [-float(ranks.get(token.replace(" ", SPACE), len(merges))) for token in tokens]


def _check_normalizer(normalizer: dict[str, Any] | None, sentencepiece: bool, path: Path) -> None:
    """llama.cpp marks the spaces of SentencePiece, and leaves every other text as it is.

    Qwen's NFC is let through: on text that is composed already, as nearly all is, it does nothing.
    """
    kind = normalizer and normalizer.get("type")
    if kind not in ("Replace" if sentencepiece else "NFC", None):
        raise BadInput(f"{path}: field normalizer: {kind} is not what llama.cpp does")


def _pre_tokenizer(tokenizer: dict[str, Any], path: Path) -> str:
    pre = tokenizer.get("pre_tokenizer") or {}
    parts = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    signature: list[str] = []
    for part in parts:
        if part.get("type") == "Split":
            signature.append(part["pattern"].get("Regex", str(part["pattern"])))
        elif part.get("type") == "Digits" and part.get("individual_digits"):
            signature.append("digits")
        elif part.get("type") == "ByteLevel":
            signature += ["gpt2"] if part.get("use_regex", True) else []
        else:
            signature.append(str(part.get("type")))
    if (name := pre_tokenizers().get(tuple(signature))) is None:
        raise BadInput(
            f"{path}: field pre_tokenizer: {' + '.join(signature) or 'none'} is not one that "
            f"llama.cpp knows; {', '.join(sorted(set(pre_tokenizers().values())))} are converted"
        )
    return name


def _special(settings: dict[str, Any], ids: dict[str, int], folder: Path) -> dict[str, int]:
    """Ids of bos, eos, unk, pad and of the token that ends a turn, where they are named."""
    special = {}
    for role in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
            special[role] = ids[token]
    turn = next((ids[token] for token in ENDS_TURN if token in ids), None)
    if turn is not None and turn != special.get("eos"):
        special["eot"] = turn
    if "eos" not in special and turn is None:
        raise BadInput(f"{folder / 'tokenizer_config.json'}: field eos_token: missing")
    return special


def _add_listed_ends(special: dict[str, int], folder: Path, size: int) -> list[int]:
    """Add the tokens that end a turn in transformers to the roles that do in llama.cpp.

    Returns those for which llama.cpp has no role left. Raises BadInput for what is no token.
    """
    path = folder / "generation_config.json"
    listed = read_object(path).get("eos_token_id") if path.is_file() else None
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    for index in ids:
        if type(index) is not int or not 0 <= index < size:
            raise BadInput(f"{path}: field eos_token_id: {str(index)[:40]} is no token")
    rest = [index for index in dict.fromkeys(ids) if index not in special.values()]
    for role in ("eos", "eot", "eom"):
        if rest and role not in special:
            special[role] = rest.pop(0)
    return rest


def _adds_bos(tokenizer: dict[str, Any], bos: int | None, settings: dict[str, Any]) -> bool:
    """Whether encoding a text puts the bos token in front of it."""
    if bos is None:
        return False
    if isinstance(settings.get("add_bos_token"), bool):
        return bool(settings["add_bos_token"])
    post = tokenizer.get("post_processor") or {}
    parts = post["processors"] if post.get("type") == "Sequence" else [post]
    templates = [part for part in parts if part.get("type") == "TemplateProcessing"]
    return any("SpecialToken" in part["single"][0] for part in templates if part["single"])


def read_template(folder: Path) -> str | None:
    """The chat template of a folder, found as transformers finds it; None where there is none.

    Of several templates the one named "default". Raises BadInput naming the file of one that is
    no text, or fails on a question.
    """
    path, template = folder / "chat_template.jinja", None
    if path.is_file():
        template = read_text(path)
    for name in ("tokenizer_config.json", "chat_template.json"):
        if template is None and (folder / name).is_file():
            path = folder / name
            template = read_object(path).get("chat_template")
    if isinstance(template, list):  # templates by name
        with bad_input(f"{path}: field chat_template: not templates by name", KeyError, TypeError):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if template is None:
        return None
    if not isinstance(template, str):
        raise BadInput(f"{path}: field chat_template: not a text")
    with bad_input(path, BadInput):
        _try_template(template)
    return template


def read_template_file(path: Path) -> str:
    """The chat template in a jinja file. Raises BadInput for one that fails on a question."""
    template = read_text(path, "name a file with a jinja chat template")
    with bad_input(path, BadInput):
        _try_template(template)
    return template


@lru_cache(maxsize=64)
def _try_template(template: str) -> None:
    """Render a question; the adapters of a base share their template, and one trial of it."""
    with TemplateWorker() as worker:
        worker.render(template, [QUESTION])
