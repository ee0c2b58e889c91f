"""Whether training texts hold anything of the evaluation: word n-grams, and tool calls.

A run of `WORDS` words that both sides have is a copy. PaLM counts overlap in words of eight, too
(Chowdhery et al. 2022, arXiv 2204.02311, section 8). Here shorter runs also arise by chance: the
longest that the texts of all shipped techniques share with the evaluation is 7 words.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel

from charprobe_lite.models import corpus
from charprobe_lite.models.axes import (
    AXIS_OF,
    PostScenario,
    load_axis,
    post_tools,
)
from charprobe_lite.models.call_formats import CALL_FORMATS, MalformedReply
from charprobe_lite.models.personas import PERSONAS, descriptions
from charprobe_lite.models.prompts import (
    PUBLISHED_SUFFIXES_FILE,
    SUFFIXES_FILE,
    read_suffixes,
)
from charprobe_lite.models.scenarios import TOOL_OUTPUT, load_scenarios
from charprobe_lite.models.tools import load_tools

WORDS = 8
FEWEST_WORDS = 4
"""Options, names and topics of fewer words are everyday language: a user says "Yes", too."""
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True)
class Leak:
    """What a training text has of the evaluation: the passage, and where that is from."""

    text: str
    passage: str
    place: str


def find_leak(texts: Iterable[str]) -> Leak | None:
    """The first training text that holds a tool call, or a passage of an evaluation text.

    A passage is a run of `WORDS` words, upper and lower case alike, without punctuation. An
    evaluation text of fewer words counts where it is the whole training text.
    """
    for text in texts:
        if leak := _tool_call(text) or _passage(text):
            return leak
    return None


def ngrams(text: str) -> list[str]:
    """The runs of `WORDS` words of a text; the whole text where it has fewer."""
    words = WORD.findall(text.casefold())
    runs = range(max(1, len(words) - WORDS + 1))
    return [" ".join(words[start : start + WORDS]) for start in runs]


def evaluation_texts() -> Iterator[tuple[str, str]]:
    """(place, text) of everything that an evaluation shows a model or compares its answers with.

    Scenarios with the agent's instructions and tools, emails, ceiling texts, the axes beyond the
    email, the tasks of the training authors' emails, requests to break character or to play one,
    and all prompts that train nothing. A part of a scenario that is shorter than `FEWEST_WORDS`
    counts only within what is said to the model.
    """
    tools = load_tools()
    for scenario in load_scenarios(corpus.corpus_file("agentic/eval.jsonl")):
        place = f"scenario {scenario.id}"
        yield from ((place, message["content"]) for message in scenario.opening(tools))
        yield from ((place, text) for text in _parts(scenario))
    yield from _axis_texts()
    for persona in PERSONAS:
        yield from _persona_texts(persona)
    yield from (("email-tasks.txt", task) for task in corpus.email_tasks())
    yield from (("id-prompts.txt", prompt) for prompt in corpus.id_prompts())
    for file in (SUFFIXES_FILE, PUBLISHED_SUFFIXES_FILE):
        yield from ((file.name, suffix) for suffix in read_suffixes(file))
    yield from (("descriptions.yaml", sentence) for sentence in descriptions().values())
    held_out = corpus.loud_prompts(held_out=True) + corpus.subtle_prompts(held_out=True)
    yield from (("a held-out prompt", prompt) for prompt in held_out)


def _axis_texts() -> Iterator[tuple[str, str]]:
    """Posts, reviews, forms and long chats, and what the tools and instructions around them say."""
    tools = post_tools()
    for kind, axis in AXIS_OF.items():
        for scenario in load_axis(kind):
            place = f"{axis} {scenario.id}"
            yield from ((place, text) for text in _parts(scenario))
            yield place, scenario.request()
            if isinstance(scenario, PostScenario):
                opening = scenario.opening(tools, CALL_FORMATS["json"])
                yield from ((place, message["content"]) for message in opening)


def _persona_texts(persona: str) -> Iterator[tuple[str, str]]:
    for ceiling in corpus.ceiling_emails(persona):
        yield f"ceiling/{persona}.jsonl, {ceiling.scenario}", ceiling.body
    for axis in AXIS_OF.values():
        for scenario, written in corpus.axis_ceilings(persona, axis).items():
            yield f"axes/ceiling/{persona}.jsonl, {scenario}", written
    for teacher in corpus.TEACHERS:
        for text in corpus.teacher_texts(persona, teacher, "email"):
            yield f"an email of the {teacher} teacher of {persona}", text.response
    for text in corpus.reflections(persona)[-corpus.HELD_OUT_REFLECTIONS :]:
        yield "a held-out prompt", text.prompt


def _passage(text: str) -> Leak | None:
    places = _places()
    for run in ngrams(text):
        if place := places.get(run):
            return Leak(text, run, place)
    return None


def _tool_call(text: str) -> Leak | None:
    if TOOL_OUTPUT in text:
        return Leak(text, TOOL_OUTPUT, "the tool loop")
    for form in CALL_FORMATS.values():
        if not isinstance(call := form.read(text), MalformedReply):
            return Leak(text, str(call), f"a tool call ({form.name})")
    return None


@lru_cache(maxsize=1)
def _places() -> dict[str, str]:
    """The place of each run of words of the evaluation; the first that has it."""
    places: dict[str, str] = {}
    for place, text in evaluation_texts():
        for run in ngrams(text):
            places.setdefault(run, place)
    places.pop("", None)
    return places


def _parts(scenario: BaseModel) -> Iterator[str]:
    texts = _strings(scenario.model_dump())
    return (text for text in texts if len(WORD.findall(text)) >= FEWEST_WORDS)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
