"""How a problem is put in one line, in the spelling of whoever reads it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from charprobe_lite.models.errors import BadInput, first_problem, spelled, suggestion


class Limit(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: int = 1


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    persona: str = "humor"
    max_tokens: int = 1
    limit: Limit = Limit()
    base: str = Field(default="a", validation_alias=AliasChoices("base", "bases"))


def problem(option: bool = False, fields: tuple[str, ...] = (), **record: Any) -> str:
    with pytest.raises(ValidationError) as error:
        Spec.model_validate(record)
    return first_problem(error.value, option, fields)


def test_a_field_is_named_as_the_file_spells_it() -> None:
    assert problem(max_tokens="x").startswith("field max_tokens: Input should be a valid integer")
    assert problem(limit={"prompts": "x"}).startswith("field limit.prompts: Input")
    assert problem(personas=1) == "field personas: Extra inputs are not permitted"
    fields = tuple(Spec.model_fields)
    assert problem(False, fields, persnoa=1) == "field persnoa: unknown; did you mean persona?"


def test_a_field_is_named_as_the_command_line_spells_it() -> None:
    assert problem(True, max_tokens="x").startswith("--max-tokens: Input should be a valid")
    assert problem(True, limit={"prompts": "x"}).startswith("--limit.prompts: Input")
    assert problem(True, bases=1).startswith("--bases: Input should be a valid string")
    assert problem(True, limit={"scenarios": 1}) == "--limit.scenarios: unknown"


def test_an_unknown_field_gets_the_nearest_one() -> None:
    fields = tuple(Spec.model_fields)
    assert problem(True, fields, persnoa=1) == "--persnoa: unknown; did you mean --persona?"
    assert problem(True, fields, max_tokns=1) == "--max-tokns: unknown; did you mean --max-tokens?"
    assert problem(True, fields, zzz=1) == "--zzz: unknown"
    assert problem(True, persnoa=1) == "--persnoa: unknown"


def test_the_text_of_other_errors_is_one_line() -> None:
    assert first_problem(ValueError("a\n  b")) == "a b"
    with pytest.raises(ValidationError) as error:
        Spec.model_validate(5)
    assert first_problem(error.value).startswith("field document: Input should be a valid dict")
    assert first_problem(error.value, option=True).startswith("Input should be a valid dict")


def test_a_near_name_is_suggested_else_all_are_listed() -> None:
    assert suggestion("sarcsm", ["humor", "sarcasm"]) == "did you mean sarcasm?"
    assert suggestion("pirate", ["humor", "sarcasm"]) == "choose from humor, sarcasm"


@pytest.mark.parametrize(
    ("message", "key", "argument"),
    [
        ("--persona sarcsm: unknown", "persona: sarcsm: unknown", "persona=sarcsm: unknown"),
        ("--max-tokens: too many", "max_tokens: too many", "max_tokens: too many"),
        ("--limit.prompts: a number", "limit.prompts: a number", "limit.prompts: a number"),
        ("name one with --base", "name one with base:", "name one with base="),
        ("add --stage and --persona", "add stage: and persona:", "add stage= and persona="),
        ("set --study or stop", "set study: or stop", "set study= or stop"),
        ("give --study order.sqlite", "give study: order.sqlite", "give study=order.sqlite"),
        ("use --format fenced.", "use format: fenced.", "use format=fenced."),
        ("--stage --persona", "stage: persona:", "stage= persona="),
        ("a--b, x --- y, a = b", "a--b, x --- y, a = b", "a--b, x --- y, a = b"),
    ],
)
def test_options_are_respelled_for_study_files_and_python(
    message: str, key: str, argument: str
) -> None:
    def respelled(style: Literal["key", "argument"], place: str | None = None) -> str:
        with pytest.raises(BadInput) as error, spelled(style, place):
            raise BadInput(message)
        return str(error.value)

    assert respelled("key") == key
    assert respelled("argument") == argument
    assert respelled("key", "grid.yaml") == f"grid.yaml: {key}"


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), spelled("key"):
        raise KeyError("--base")
