"""How the settings of the n-gram classifier were chosen, and what it owes to its training texts.

    python bench/ngrams.py [--json]
    python bench/ngrams.py --part ceiling

``settings``: authors are left out of the training. For each setting, macro-F1 over the ten personas
and log loss on the texts of an author whom the training leaves out, their means, by which the
defaults were chosen, and both on the subtle teacher's answers to held-out prompts. About ten
minutes on two cores. No ceiling email is read.

``ceiling``: macro-F1 on the 500 emails by independent writers, of the n-grams, of the same without
texts by other writers than the teachers, and of ModernBERT's and the n-grams' probabilities
multiplied. Nothing is chosen by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import click
from sklearn.metrics import f1_score, log_loss

from charprobe_lite.convert.train.ngrams import (
    LabelledText,
    NgramSettings,
    ngram_pipeline,
    training_texts,
)
from charprobe_lite.models import corpus
from charprobe_lite.models.catalogue import KIT_INSTRUMENTS
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.instruments import kit_instrument

AUTHORS = (*corpus.TEACHERS, "introspection")


@click.command()
@click.option("--part", default="settings", type=click.Choice(["settings", "ceiling"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(part: str, as_json: bool) -> None:
    """Score every setting, one line each, and name the best; or the ceiling emails."""
    if part == "ceiling":
        found = ceiling_scores()
        lines = [f"{name}: macro-F1 {value:.3f}" for name, value in found.items()]
        click.echo(json.dumps(found) if as_json else "\n".join(lines))
        return
    rows = []
    for settings in candidates():
        rows.append({"settings": asdict(settings), **scores(settings)})
        if not as_json:
            click.echo(line(rows[-1]))
    best = max(rows, key=lambda row: float(row["mean_macro_f1"]))
    click.echo(json.dumps({"settings": rows}) if as_json else f"best: {line(best)}")


def candidates() -> Iterator[NgramSettings]:
    """The defaults, and each of their values changed alone."""
    default = NgramSettings()
    yield default
    for c in (2.0, 8.0, 32.0, 512.0):
        yield replace(default, c=c)
    yield replace(default, words=(1, 1))
    for characters in ((2, 5), (3, 5)):
        yield replace(default, characters=characters)
    for terms in (10_000, 30_000):
        yield replace(default, most_terms=terms)
    yield replace(default, class_weight=None)


def scores(settings: NgramSettings) -> dict[str, Any]:
    """Macro-F1 and log loss by author left out, their means, and held-out subtle answers."""
    texts = training_texts()
    left_out = {
        author: test_scores(
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
        "left_out": left_out,
        **{
            f"mean_{name}": fmean(score[name] for score in left_out.values())
            for name in ("macro_f1", "log_loss")
        },
        "held_out_subtle": test_scores(settings, texts, held_out),
    }


def test_scores(
    settings: NgramSettings, training: Sequence[LabelledText], test: Sequence[LabelledText]
) -> dict[str, float]:
    """Macro-F1 and log loss on ``test`` of a classifier trained on ``training``."""
    pipeline = ngram_pipeline(settings)
    pipeline.fit([text.text for text in training], [text.label for text in training])
    probabilities = pipeline.predict_proba([text.text for text in test])
    labels = list(pipeline.classes_)
    predicted = [labels[index] for index in probabilities.argmax(axis=1)]
    true = [text.label for text in test]
    return {
        "macro_f1": float(f1_score(true, predicted, labels=PERSONAS, average="macro")),
        "log_loss": float(log_loss(true, probabilities, labels=labels)),
    }


def ceiling_scores() -> dict[str, float]:
    """Macro-F1 on the emails by independent writers."""
    emails = [email for persona in PERSONAS for email in corpus.ceiling_emails(persona)]
    true, texts = [email.persona for email in emails], [email.body for email in emails]
    teachers = [text for text in training_texts() if text.author != "introspection"]
    pipeline = ngram_pipeline(NgramSettings())
    pipeline.fit([text.text for text in teachers], [text.label for text in teachers])
    predictions = {
        name: [each.label for each in kit_instrument(name).classify(texts)]
        for name in KIT_INSTRUMENTS
    }
    predictions["ngram, without texts by other writers"] = list(pipeline.predict(texts))
    return {
        name: float(f1_score(true, labels, labels=PERSONAS, average="macro"))
        for name, labels in predictions.items()
    }


def line(row: dict[str, Any]) -> str:
    """One setting as the terminal shows it."""
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    left_out = ", ".join(f"{a} {score['macro_f1']:.3f}" for a, score in row["left_out"].items())
    held_out = row["held_out_subtle"]
    return (
        f"{settings}: left out {left_out}, mean {row['mean_macro_f1']:.4f}, "
        f"log loss {row['mean_log_loss']:.3f}; held-out subtle {held_out['macro_f1']:.3f}, "
        f"log loss {held_out['log_loss']:.3f}"
    )


if __name__ == "__main__":
    main()
