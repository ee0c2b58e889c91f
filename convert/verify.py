"""Is the GGUF file the model it was made from? Token ids and logits against the originals.

The reference is transformers (with peft) on the checkpoint folder, its weights read one module
at a time, so that an 8B model is checked in the memory of its largest matrix. For a base that is
a GGUF file itself, the reference is llama.cpp on that base, as F16, with the adapters at run time.
"""

import json
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from charprobe_lite.convert.forward import Forward
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.gguf_model import open_model, write_model
from charprobe_lite.convert.lora import EMBEDDING, HEAD, Delta, read_adapter
from charprobe_lite.convert.quantize import LogitAgreement
from charprobe_lite.convert.vocabulary import tokenizer_folder
from charprobe_lite.models.child_process import run_main
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.models.quant_types import EXACT_TYPES
from charprobe_lite.runtime.fidelity import kl_divergence, log_softmax

AWKWARD = (
    "Hello world",
    " leading and trailing ",
    "   three   spaces    and\tone\t\ttab",
    "line\nbreaks\n\n\nand\r\nmore\n \n  \n",
    "0 1 12 123 1234 12345678901234567890 3.14159 1,000,000",
    "I'm you're we've they'll he'd it's DON'T o'clock",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \uc548\ub155\ud558",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u1f79\u03c4\u03b9",
    "na\u00efve caf\u00e9 e\u0301clair \u212b \u00a0 \u200b \ufeff",
    "def f(x):\n    return {\"a\": [1, 2], 'b': x**2}  # comment\n\n\tif (a != b) { c += 1; }",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\path\\file.txt",
    "<|not a token|> [INST] {{template}} <b>bold</b>",
    '....!!!???---___===~~~``` "quoted" \u201ccurly\u201d \u2026',
    "CamelCaseAndSNAKE_CASE and MiXeD123abc456",
    "a" * 70,
    "",
)
TEXT = (
    "The committee met on Tuesday at 9:30 to discuss the budget for 2026. Everyone agreed that "
    "the new library should open in spring, although nobody could say who would pay for it.\n"
    "1. Ask the council. 2. Write to the sponsors. 3. Don't panic! caf\u00e9 \u4f60\u597d"
)
TOKENS = 96  # enough to leave the sliding window of a small test model, and quick for a large one
LIMITS = {"F32": (1e-5, 2e-3), "F16": (1e-3, 2e-2), "BF16": (1e-2, 8e-2), "Q8_0": (2e-2, 1.5e-1)}
"""Per type, the largest mean KL divergence and relative logit error that count as rounding."""
AT_RUN_TIME = (1e-2, 8e-2)  # an adapter kept as F16 or Q8_0, applied after the base's product
QUANTIZED = (0.2, 0.4)  # the same weights with and without rounded inputs


def verify_file(file: Path, base: Path, adapters: Sequence[Path]) -> LogitAgreement:
    """Check a written F32, F16, BF16 or Q8_0 file against what it was made from.

    Raises BadInput when token ids differ, when the logits differ by more than rounding, or when
    the reference cannot be computed (``--no-verify`` then skips the check).
    """
    with closing(Forward(file)) as model:
        if base.is_dir():
            compare_tokens(model, tokenizer_folder(adapters, model.vocabulary_size) or base)
        ids = model.tokenize(TEXT)[:TOKENS]
        logits = model.logits(ids)
    # the file's model is closed by now: two at once would not fit where one does
    kind = weight_summary(file).main_type
    kl, error = LIMITS[kind]
    if base.is_dir():
        try:
            from charprobe_lite.convert.reference import reference_logits
        except ModuleNotFoundError as missing:
            raise BadInput(
                f"verify: {missing.name} is not installed; pip install 'charprobe-lite[convert]' "
                "or give --no-verify"
            ) from None
        reference = reference_logits(base, adapters, ids)
    else:
        reference = _gguf_logits(base, adapters, ids, file.parent)
        kl, error = max(kl, AT_RUN_TIME[0]), max(error, AT_RUN_TIME[1])
    agreement = judged = compare_logits(reference, logits)
    if kind == "Q8_0" and not _is_within(agreement, (kl, error)):
        # some models enlarge what rounding the inputs does: the weights are compared without it
        with _room(file.parent) as folder:
            exact = _write_exact(file, folder / "exact.gguf", logits, ids)
        judged = compare_logits(reference, exact)
    _refuse(judged, (kl, error), file, base)
    return agreement


def refuse_unverifiable(base: Path, adapters: Sequence[Path]) -> None:
    """BadInput for what has no reference to be checked against, before anything is written."""
    folders = [path for path in adapters if path.is_dir()]
    if base.is_dir() and (len(adapters) > 1 or len(folders) < len(adapters)):
        raise BadInput(
            "--verify: a checkpoint folder can be checked with one PEFT folder on it, not with "
            f"{', '.join(map(str, adapters))}; give --no-verify"
        )
    if base.is_dir():
        return
    model = open_model(base)
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    tied = (EMBEDDING, HEAD) if HEAD not in shapes else ()
    for path in adapters:
        adapter = read_adapter(path, model.architecture)
        saved = {  # PEFT saves an embedding under its LoRA, too
            name: own
            for name, own in adapter.base.items()
            if name not in adapter.changes or own.shape != shapes.get(name)
        }
        for name, change in (*adapter.changes.items(), *saved.items()):
            if not isinstance(change, Delta) or name in tied:
                raise BadInput(
                    f"--verify: {path}: tensor {name}: llama.cpp cannot change it at run time, so "
                    f"{base} cannot be the reference; give --no-verify"
                )


def verify_in_child(file: Path, base: Path, adapters: Sequence[Path]) -> LogitAgreement:
    """``verify_file`` in a child process: torch and its memory stay out of this one."""
    output = run_main("convert.verify", file, base, *adapters)
    return LogitAgreement(**json.loads(output.splitlines()[-1]))


def main() -> None:
    """The child process: paths as arguments, the agreement as JSON."""
    file, base, *adapters = map(Path, sys.argv[1:])
    print(json.dumps(asdict(verify_file(file, base, adapters))))


def compare_logits(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> LogitAgreement:
    """Compare logits (positions, vocabulary) with those of the reference."""
    size = min(reference.shape[1], logits.shape[1])  # padding rows have no token
    ours, theirs = (np.asarray(side[:, :size], dtype=np.float64) for side in (logits, reference))
    kl = kl_divergence(log_softmax(theirs), log_softmax(ours))
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    ours = ours - ours.mean(axis=1, keepdims=True)
    return LogitAgreement(
        positions=len(kl),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1=float((theirs.argmax(axis=1) == ours.argmax(axis=1)).mean()),
        relative_error=float(np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())),
    )


def compare_tokens(model: Forward, folder: Path) -> None:
    """Token ids of llama.cpp and of tokenizer.json on AWKWARD texts. Raises BadInput.

    Where the tokenizer composes its input first (NFC, which llama.cpp does not), both read the
    composed text.
    """
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [added.content for added in reference.get_added_tokens_decoder().values()]
    joined = "a".join(special[:20]) + " text".join(special[-5:])
    composes = type(reference.normalizer).__name__ == "NFC"
    for raw in (*AWKWARD, joined):
        text = unicodedata.normalize("NFC", raw) if composes else raw
        ours, theirs = model.tokenize(text), reference.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            first = next(
                (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                min(len(ours), len(theirs)),
            )
            raise BadInput(
                f"{model.path}: token ids of {text[:40]!r} differ from the {first + 1}. on: "
                f"llama.cpp {_ids(ours, first)}, {folder / 'tokenizer.json'} {_ids(theirs, first)}"
            )


def _ids(ids: Sequence[int], first: int) -> str:
    return f"{ids[first : first + 6] or 'none'}{' ...' if len(ids) > first + 6 else ''}"


def _gguf_logits(base: Path, adapters: Sequence[Path], ids: Sequence[int], room: Path) -> Any:
    """llama.cpp's logits of a GGUF base with adapters at run time (PEFT ones written as GGUF).

    A quantized base is written out as F16 first: on quantized weights llama.cpp also rounds the
    inputs, which would drown the difference. Raises BadInput when the F16 file is not the same
    model. Temporary files go to ``room``: a temporary folder of the system may lie in memory.
    """
    with _room(room) as folder:
        files = [
            convert_adapter(adapter, base, folder / f"{number}.gguf").path
            if adapter.is_dir()
            else adapter
            for number, adapter in enumerate(adapters)
        ]
        exact = base
        if not set(weight_summary(base).tensor_types) <= EXACT_TYPES:
            exact = folder / "exact.gguf"
            _write_exact(base, exact, _logits(base, [], ids), ids)
        return _logits(exact, files, ids)


@contextmanager
def _room(parent: Path) -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="verify-", suffix=".part") as folder:
        yield Path(folder)


def _write_exact(
    file: Path, target: Path, logits: NDArray[np.float32], ids: Sequence[int]
) -> NDArray[np.float32]:
    """Write a quantized model as F16; returns its logits for ``ids``. Raises BadInput when they
    are not those of the same model, whose ``logits`` have rounded inputs."""
    write_model(open_model(file), target, "F16")
    exact = _logits(target, [], ids)
    _refuse(compare_logits(logits, exact), QUANTIZED, target, file)
    return exact


def _logits(model: Path, adapters: Sequence[Path], ids: Sequence[int]) -> NDArray[np.float32]:
    with closing(Forward(model, adapters)) as forward:
        return forward.logits(ids)


def _refuse(agreement: LogitAgreement, limits: tuple[float, float], file: Path, base: Path) -> None:
    if not _is_within(agreement, limits):
        kl, error = agreement.kl_mean, agreement.relative_error
        raise BadInput(
            f"{file}: its logits differ from {base}: mean KL {kl:.2g} (limit {limits[0]:g}), "
            f"relative error {error:.2g} (limit {limits[1]:g}); report this conversion"
        )


def _is_within(agreement: LogitAgreement, limits: tuple[float, float]) -> bool:
    return agreement.kl_mean <= limits[0] and agreement.relative_error <= limits[1]
