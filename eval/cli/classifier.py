"""`charprobe-lite classifier`: what the labels of a classifier are worth."""

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import item_bar, print_result
from charprobe_lite.models.catalogue import KIT_INSTRUMENTS


@click.group()
def classifier() -> None:
    """What the labels of a classifier are worth."""


@classifier.command()
@click.argument(
    "classifiers", nargs=-1, metavar=f"[{'|'.join(KIT_INSTRUMENTS)}|FOLDER|FILE.npz]..."
)
@click.option("--resamples", type=click.IntRange(100), help="Bootstrap resamples [default: 10000].")
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of the resamples.")
@json_option
def card(classifiers: tuple[str, ...], resamples: int | None, seed: int, as_json: bool) -> None:
    """Score classifiers on the corpus's texts, whose persona is known, by author and form.

    Without a name, the four that the package ships: ensemble (minilm and ngram together), minilm,
    ngram and modernbert. Prints macro-F1 with its interval from resampled prompts and scenarios,
    calibration, and for 500 emails by writers of no training text F1 by persona and what each
    persona is read as instead. Texts that a shipped classifier was trained on are left out.

    \b
    charprobe-lite classifier card
    charprobe-lite classifier card ensemble,ngram --json
    charprobe-lite classifier card my-classifier/
    """
    from charprobe_lite.eval.texts.card import card_parts, classifier_card

    given = [name.strip() for value in classifiers for name in value.split(",") if name.strip()]
    cards = [
        classifier_card(name, seed=seed, resamples=resamples, progress=item_bar)
        for name in dict.fromkeys(given or KIT_INSTRUMENTS)
    ]
    parts = (part for card in cards for part in card_parts(card))
    print_result(as_json, {"cards": [card.as_json() for card in cards]}, parts)
