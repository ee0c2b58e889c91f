"""How the settings of the n-gram classifier were chosen: authors left out of its training.

    python bench/ngrams.py [--json]

For each setting, macro-F1 over the ten personas on the texts of an author whom the training leaves
out, their mean, by which the defaults were chosen, and macro-F1 on the subtle teacher's answers to
held-out prompts. About eight minutes on one core. No ceiling email is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import click
from sklearn.metrics import f1_score

from charprobe_lite.convert.train.ngrams import (
    LabelledText,
    NgramSettings,
    ngram_pipeline,
    training_texts,
)
from charprobe_lite.models import corpus
from charprobe_lite.models.personas import PERSONAS

AUTHORS = (*corpus.TEACHERS, "introspection")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(as_json: bool) -> None:
    """Score every setting, one line each, and name the best."""
    rows = []
    for settings in candidates():
        rows.append({"settings": asdict(settings), **scores(settings)})
        if not as_json:
            click.echo(line(rows[-1]))
    best = max(rows, key=lambda row: float(row["mean"]))
    click.echo(json.dumps({"settings": rows}) if as_json else f"best: {line(best)}")


def candidates() -> Iterator[NgramSettings]:
    """c, the characters and the number of terms; with 20,000 terms also single words."""
    for c, characters, terms in product((2.0, 4.0, 16.0), ((2, 4), (2, 5)), (10_000, 20_000)):
        yield NgramSettings(c=c, characters=characters, most_terms=terms)
    yield replace(NgramSettings(), words=(1, 1))
    yield replace(NgramSettings(), class_weight=None)


def scores(settings: NgramSettings) -> dict[str, Any]:
    """Macro-F1 by author left out, their mean, and on the subtle teacher's held-out answers."""
    texts = training_texts()
    by_author = {
        author: macro_f1(
            settings,
            [text for text in texts if text.author != author],
            [text for text in texts if text.author == author],
        )
        for author in AUTHORS
    }
    held_out = [
        LabelledText(chat.response, persona, "subtle")
        for persona in PERSONAS
        for chat in corpus.teacher_chats(persona, held_out=True, teachers=["subtle"])
    ]
    return {
        "left_out": by_author,
        "mean": sum(by_author.values()) / len(by_author),
        "held_out_subtle": macro_f1(settings, texts, held_out),
    }


def macro_f1(
    settings: NgramSettings, training: Sequence[LabelledText], test: Sequence[LabelledText]
) -> float:
    """Macro-F1 on ``test`` of a classifier trained on ``training``."""
    pipeline = ngram_pipeline(settings)
    pipeline.fit([text.text for text in training], [text.label for text in training])
    predicted = pipeline.predict([text.text for text in test])
    true = [text.label for text in test]
    return float(f1_score(true, predicted, labels=PERSONAS, average="macro"))


def line(row: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    left_out = ", ".join(f"{author} {value:.3f}" for author, value in row["left_out"].items())
    return (
        f"{settings}: left out {left_out}, mean {row['mean']:.4f}; "
        f"held-out subtle {row['held_out_subtle']:.3f}"
    )


if __name__ == "__main__":
    main()
