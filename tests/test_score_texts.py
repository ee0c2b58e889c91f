"""`score_texts`: what `score` does with files, from Python with data frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from charprobe_lite.eval.texts.reader import Columns
from charprobe_lite.eval.texts.scores import score_files, score_texts
from charprobe_lite.models.errors import BadInput


def answers() -> pd.DataFrame:
    """Two models, twelve answers each to four prompts; one hits more often than the other."""
    rows = [
        {
            "model": model,
            "voice": (voice := ("humor", "remorse", "sarcasm")[n % 3]),
            "guess": voice if n % miss else "neutral",
            "prompt": f"p{n // 3}",
            "saw": n % 2 == 0,
        }
        for model, miss in (("a", 6), ("b", 2))
        for n in range(12)
    ]
    return pd.DataFrame(rows)


def test_a_frame_has_the_scores_of_the_same_rows_in_a_file(tmp_path: Path) -> None:
    frame = answers()
    names = {"label": "voice", "prediction": "guess", "cluster": "prompt", "human": "saw"}
    table = score_texts(frame, **names, by=["model"], seed=4, resamples=200)
    assert list(table["model"]) == ["a", "b"]
    assert list(table["accuracy"]) == pytest.approx([10 / 12, 6 / 12])
    assert set(table["interval"]) == {"cluster"}
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    columns = Columns(**names, by=("model",))
    scores = score_files([file], columns, seed=4, resamples=200)
    assert [score.record() for score in scores] == table.to_dict("records")


def test_texts_without_a_prediction_are_classified() -> None:
    frame = pd.DataFrame({"text": ["I am so sorry, forgive me."] * 2, "persona": "remorse"})
    [row] = score_texts(frame).to_dict("records")
    assert (row["n"], row["accuracy"], row["interval"]) == (2, 1.0, "rows")
    assert row["brier"] < 1


def test_missing_values_are_empty_fields_in_a_frame_too() -> None:
    frame = answers()
    frame["prediction"] = frame["guess"].where(frame.index != 5, np.nan)
    with pytest.raises(BadInput, match="row 5: field prediction: missing; a row needs"):
        score_texts(frame, label="voice")


def test_arguments_are_named_as_in_python() -> None:
    with pytest.raises(BadInput, match=r"frame: label=tone: no such column; it has model"):
        score_texts(answers(), label="tone")


def test_a_column_that_a_frame_has_twice_is_refused_where_it_is_read() -> None:
    frame = answers().assign(note="x", remark="y").rename(columns={"remark": "note"})
    names = {"label": "voice", "prediction": "guess"}
    assert score_texts(frame, **names)["n"].tolist() == [24]
    with pytest.raises(BadInput, match="row 0: field note: two columns have this name"):
        score_texts(frame, **names, by="note")


def test_probabilities_may_be_arrays() -> None:
    frame = pd.DataFrame(
        {
            "persona": ["humor", "neutral"],
            "prediction": ["humor", "humor"],
            "probs": [np.array([0.7, 0.3]), np.array([0.6, 0.4])],
            "label_order": [["humor", "neutral"]] * 2,
        }
    )
    [row] = score_texts(frame).to_dict("records")
    assert row["brier"] == pytest.approx((2 * 0.3**2 + 2 * 0.6**2) / 2)
