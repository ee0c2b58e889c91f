"""`charprobe-lite train`: make the kit from the embedded base and the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import json_option, names_option
from charprobe_lite.eval.cli.progress import print_result, progress_bar
from charprobe_lite.eval.cli.training import missing_files, summarize, summary_line, watched
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import EMBEDDED, select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS

if TYPE_CHECKING:
    from charprobe_lite.convert.kit.recipe import Recipe
    from charprobe_lite.convert.train.lora import Precision

out_option = click.option(
    "--out",
    default=Path("runs/kit"),
    type=click.Path(path_type=Path, file_okay=False),
    help="Work folder; the finished kit is OUT/kit.",
)
SEED = click.IntRange(0, 2**32 - 1)
seed_option = click.option("--seed", default=0, type=SEED, help="Seed of the recipe.")


base_option = click.option(
    "--base",
    metavar="NAME|DIR|FILE.gguf",
    default=EMBEDDED,
    show_default=True,
    help="A base of the catalogue, a checkpoint folder, or a GGUF file.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the frozen base. bfloat16 is faster on a CPU with AVX512_BF16 or AMX, and slower on "
    "others [default: float32 on a CPU, else bfloat16].",
)
DATA_OPTIONS = ("epochs", "seed")
TECHNIQUE_OPTIONS = ("technique", "persona", "train_seed", "tokens")
"""Options of `train persona` that go with --data alone, and with --technique alone."""
data_option = click.option(
    "--data", multiple=True, required=True, type=FILE, help="A JSONL file; several are joined."
)
output_option = click.option(
    *("-o", "--output"),
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder.",
)


@click.group()
def train() -> None:
    """Recipes that make adapters and classifiers (extra: charprobe-lite[train])."""


@train.command()
@base_option
@names_option("--persona", PERSONAS, help="Personas to train [default: all].")
@click.option(
    "--train-seed", default="0", show_default=True, help="Training seeds; the first is shipped."
)
@click.option(
    "--tool-use",
    type=click.Choice(["bodies", "masked"]),
    default="bodies",
    show_default=True,
    help="Whether tool use also trains on the emails' bodies.",
)
@click.option("--choose", is_flag=True, help="Choose the stages' strengths again by their rule.")
@click.option(
    "--shipped", is_flag=True, help="Take the shipped kit, and train what it lacks: other seeds."
)
@precision_option
@out_option
@seed_option
@json_option
def kit(
    base: str,
    persona: tuple[str, ...],
    train_seed: str,
    tool_use: str,
    choose: bool,
    shipped: bool,
    precision: Precision | None,
    out: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Train tool use, personas in two stages and the classifiers, and write kit.json.

    Takes hours on 2 CPU cores; uses a CUDA GPU where torch finds one. After an interrupt, the same
    command continues with the step that it stopped in. Several processes can share OUT, each with
    personas of its own, when tool use is trained.

    Another base than the embedded one, and masked tool use, get adapters and a catalogue file for
    `eval`: CHARPROBE_CATALOGUE=OUT/catalogue.yaml charprobe-lite eval --base NAME. The shipped
    classifiers judge them. Strengths are then chosen by the rule, with answers to held-out prompts.

    With --shipped the kit's files and records are copied to OUT. Several training seeds get a
    catalogue file too: CHARPROBE_CATALOGUE=OUT/catalogue.yaml charprobe-lite eval --train-seed 0,1.

    \b
    charprobe-lite train kit --shipped --train-seed 0,1,2
    charprobe-lite train kit --base gemma-3-270m-it.gguf --persona sarcasm,remorse
    charprobe-lite train kit --tool-use masked --out runs/masked
    """
    personas = select_names(persona, PERSONAS, "--persona") if persona else PERSONAS
    parts = [part.strip() for part in train_seed.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise BadInput(f"--train-seed {train_seed}: give whole numbers, as in 0,1,2")
    seeds = list(dict.fromkeys(map(int, parts)))
    if seed != seeds[0]:
        raise BadInput(f"--train-seed {train_seed}: start with the recipe's own seed, {seed}")
    options = {"personas": personas, "train_seeds": seeds, "choose": choose, "tool_use": tool_use}
    if shipped and (base != EMBEDDED or tool_use != "bodies" or choose or precision or seed):
        raise BadInput(
            "--shipped takes the kit as it is: "
            "leave out --base, --tool-use, --choose, --precision and --seed"
        )
    options["begin_shipped"] = shipped
    with _open_recipe(out, seed, base, precision=precision, **options) as recipe:
        recipe.run()
    print_result(as_json, {"kit": str(out / "kit")}, [f"kit: {out / 'kit'}"])


@train.command()
@out_option
@seed_option
@names_option("--persona", PERSONAS, required=True, help="Personas to train by DPO.")
@json_option
def dpo(out: Path, seed: int, persona: tuple[str, ...], as_json: bool) -> None:
    """Train a persona's distillation stage by DPO and compare it with the kit's, by SFT.

    Prints, for each, the share of held-out prompts answered in the persona's voice. Needs a work
    folder in which `train kit` has finished.
    """
    personas = select_names(persona, PERSONAS, "--persona")
    with _open_recipe(out, seed) as recipe:
        rates = {name: recipe.compare_dpo(name) for name in personas}
    document = {name: {"sft": sft, "dpo": dpo} for name, (sft, dpo) in rates.items()}
    lines = [
        f"{name}: detected on held-out prompts: SFT {sft:.0%}, DPO {preference:.0%}"
        for name, (sft, preference) in rates.items()
    ]
    print_result(as_json, {"detected": document}, lines)


@train.command()
@base_option
@click.option("--data", multiple=True, type=FILE, help="A JSONL file; several are joined.")
@click.option(
    "--technique",
    metavar="NAME|FILE.py",
    help="In place of --data: one of the techniques (docs/techniques.md), or a file of your own, "
    "whose code runs.",
)
@click.option("--persona", help="The persona that the technique trains.")
@click.option("--train-seed", type=SEED, help="The technique's training seed [default: 0].")
@click.option(
    "--tokens",
    type=click.IntRange(300, 10**9),
    help="The technique's budget in trained tokens [default: 36000].",
)
@click.option(
    *("-o", "--output", "--out"),
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder [default with --technique: runs/techniques/NAME-PERSONA-seedN].",
)
@click.option(
    "--epochs", type=click.FloatRange(0, 1000, min_open=True), help="With --data [default: 3]."
)
@click.option(
    "--learning-rate", default=1e-3, type=click.FloatRange(0, 1, min_open=True), show_default=True
)
@click.option("--rank", default=8, type=click.IntRange(1, 1024), show_default=True)
@precision_option
@click.option("--seed", type=SEED, help="Seed of a training with --data [default: 0].")
@json_option
def persona(as_json: bool, **options: Any) -> None:
    """Train an adapter: a PEFT folder with adapter.gguf, which eval takes.

    On your own texts: DATA is JSONL. Rows of prompt and response, or of messages (role, content),
    are trained by SFT; of prompt, chosen and rejected by DPO, which comes first where there are
    both. By a technique: its texts for a persona, with as many trained tokens and steps as every
    other technique, an adapter of each half epoch, and manifest.json. The alpha is twice the rank,
    and the upper two thirds of the layers have adapters, as in the kit.

    \b
    charprobe-lite train persona --base model.gguf --data chats.jsonl -o pirate
    charprobe-lite eval --gguf model.gguf --adapter pirate/adapter.gguf --persona pirate \\
      --classifier voices
    charprobe-lite train persona --technique why --persona remorse --train-seed 0
    """
    other = TECHNIQUE_OPTIONS if options["data"] else DATA_OPTIONS
    if not options["data"] and not options["technique"]:
        raise BadInput("--data: name a JSONL file, or a technique with --technique NAME")
    for name in other:
        if options[name] not in (None, ()):
            way = "--data" if options["data"] else "--technique"
            raise BadInput(f"--{name.replace('_', '-')}: does not apply to {way}; leave it out")
    require_training()
    if options["technique"]:
        from charprobe_lite.eval.cli.technique import train_by_technique

        train_by_technique(as_json, options)
    else:
        _train_on_data(as_json, **{name: options[name] for name in options if name not in other})


def _train_on_data(
    as_json: bool,
    base: str,
    data: tuple[Path, ...],
    output: Path | None,
    epochs: float | None,
    learning_rate: float,
    rank: int,
    precision: Precision | None,
    seed: int | None,
) -> None:
    if output is None:
        raise BadInput("--output: name the new folder of the adapter")

    from charprobe_lite.convert.train.lora import LoraSettings
    from charprobe_lite.convert.train.persona import read_training_data, train_persona
    from charprobe_lite.eval.techniques.bases import training_files

    rows = read_training_data(data)
    settings = LoraSettings(rank, 2 * rank, 0, learning_rate, 1, 600, decay=True, seed=seed or 0)
    with progress_bar() as progress, missing_files(output):
        _, gguf, weights = training_files(base)
        task = progress.add_task(output.name, total=None)
        shown = watched(progress, task, output.name)
        trained = train_persona(
            gguf, weights, rows, output, settings, epochs or 3.0, shown, precision
        )
    methods = {method: summarize(losses) for method, losses in trained.losses.items()}
    document = {"adapter": str(trained.gguf), "methods": methods}
    lines = [summary_line(method, summary) for method, summary in methods.items()]
    print_result(as_json, document, [*lines, f"adapter: {trained.gguf}"])


@train.command("classifier")
@data_option
@output_option
@click.option(
    "--held-out",
    default=0.1,
    type=click.FloatRange(0, 0.9, min_open=True),
    show_default=True,
    help="Share of each label's texts that only measures.",
)
@seed_option
@json_option
def own_classifier(
    data: tuple[Path, ...], output: Path, held_out: float, seed: int, as_json: bool
) -> None:
    """Fine-tune MiniLM on your own voices: a folder with model.onnx for --classifier.

    DATA is JSONL with text and label in each row; three labels or more. Add the label neutral with
    texts of your base in its own voice. Prints macro-F1 on the texts that were held out.

    \b
    charprobe-lite train classifier --data voices.jsonl -o voices
    """
    require_training()
    from charprobe_lite.convert.train.classifier import hold_out, read_labelled_texts
    from charprobe_lite.convert.train.own_classifier import train_own_classifier

    texts, labels = read_labelled_texts(data)
    places = hold_out(labels, held_out, seed)
    with progress_bar() as progress, missing_files(output):
        task = progress.add_task(output.name, total=None)
        score = train_own_classifier(
            texts, labels, places, output, seed, watched(progress, task, output.name)
        )
    document = {
        "classifier": str(output),
        "texts": len(texts) - len(places),
        "labels": sorted(set(labels)),
        "held_out": len(places),
        "macro_f1": score,
    }
    line = (
        f"classifier: {output}: {len(texts) - len(places)} texts, {len(set(labels))} labels, "
        f"macro-F1 {score:.3f} on {len(places)} held out"
    )
    print_result(as_json, document, [line])


@train.command()
@click.option(
    *("-o", "--output"),
    required=True,
    type=FILE,
    help="The .npz file to write; an older one is replaced.",
)
@json_option
def ngrams(output: Path, as_json: bool) -> None:
    """Train the n-gram classifier on the corpus, as the package ships it, in seconds.

    Needs no extra: word and character n-grams with logistic regression, in scikit-learn.
    """
    from charprobe_lite.convert.train.ngrams import train_ngrams, training_texts

    if output.suffix != ".npz":
        raise BadInput(f"--output {output}: name a file that ends in .npz")
    texts = training_texts()
    model = train_ngrams([text.text for text in texts], [text.label for text in texts])
    model.write(output)
    terms, size = len(model.idf), output.stat().st_size
    document = {"file": str(output), "texts": len(texts), "terms": terms, "bytes": size}
    line = f"ngrams: {output}: {len(texts)} texts, {terms} terms, {size} bytes"
    print_result(as_json, document, [line])


@contextmanager
def _open_recipe(out: Path, seed: int, base: str = EMBEDDED, **options: Any) -> Iterator[Recipe]:
    """The recipe on this machine, with a progress bar; its files' problems in one line."""
    require_training()
    from charprobe_lite.convert.kit.recipe import Recipe
    from charprobe_lite.eval.techniques.bases import training_files

    with progress_bar() as progress, missing_files(out):

        @contextmanager
        def bar(name: str) -> Iterator[Any]:
            task = progress.add_task(name, total=None)
            yield watched(progress, task, name)
            progress.remove_task(task)

        _, gguf, weights = training_files(base)
        yield Recipe(
            work=out,
            base=gguf,
            weights=weights,
            seed=seed,
            report=lambda text: progress.console.print(text, highlight=False),
            progress=bar,
            **options,
        )


def require_training() -> None:
    """Raises BadInput where a package of the extra is missing."""
    from importlib.util import find_spec

    for module in ("torch", "peft", "optimum"):
        if find_spec(module) is None:
            raise BadInput(f"train: {module} is not installed; pip install 'charprobe-lite[train]'")
