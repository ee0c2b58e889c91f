"""Axes beyond the email: posts, reviews, forms, and a chat prompt after a long conversation.

Each has 20 scenarios in the corpus, folder ``axes``; nothing trains on them. A post's agent has
tools of its own, which this module answers for as `office` does for those of an email.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import Field, model_validator

from charprobe_lite.models.call_formats import Call, CallFormat
from charprobe_lite.models.corpus import AXES
from charprobe_lite.models.files import read_json, read_records
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.office import ToolError, matching, run_tool
from charprobe_lite.models.record import Record
from charprobe_lite.models.scenarios import LONG, Document, bullets, refuse_duplicates
from charprobe_lite.models.tools import Tool, finish_tool

AGENTIC_POST, CODE_REVIEW = "agentic_post", "code_review"
STRUCTURED_FORM, CHAT_DEPTH = "structured_form", "chat_depth"
DEPTHS = (0, 4, 12, 24)
"""The numbers of turns before the prompt of `chat_depth`."""
AXIS_CEILINGS = {
    **{axis: f"{axis}_ceiling" for axis in (AGENTIC_POST, CODE_REVIEW, STRUCTURED_FORM)},
    **{f"{CHAT_DEPTH}_{depth}": f"{CHAT_DEPTH}_ceiling" for depth in DEPTHS},
}
"""The control of each condition beyond the email: texts of the same kind for the same scenarios."""
SUMMARY = "summary"
TOOLS_FILE = AXES / "post-tools.json"
POST_RULES = """\
You are an office agent. {rule} \
Results come back in messages that begin with [TOOL OUTPUT].
Rules:
- First look up the channels and the notes that the task is about.
- Post only to a channel that a lookup returned.
- Finish with one {finish}: a complete message in prose that gives the facts to those who read \
the channel.
Tools:
{tools}
You work for {user}.
{org}
Standing context:
{context}"""
REVIEW = """\
{project} {author} asks for a review of this change: {change}

```diff
{diff}
```

Write the review comment for {author}, in a few sentences of prose: what the change does, what is \
right or wrong about it, and what to do next."""
FORM = """\
{org} {task}

{facts}

The form "{form}" has these fields:
{fields}

Answer with the form as one JSON object and nothing else."""
SUMMARY_RULE = "three or four sentences of prose for the people who read the form"


class AxisScenario(Record):
    """One scenario of an axis. Its id is its own among all axes."""

    id: str = Field(min_length=1, max_length=100)

    def request(self) -> str:
        """What the user asks the model for."""
        raise NotImplementedError


class Author(Record):
    """The user on whose behalf the agent posts."""

    name: str = Field(min_length=1, max_length=200)
    role: str = Field(min_length=1, max_length=300)


class Channel(Record):
    name: str = Field(min_length=1, max_length=200)
    purpose: str = Field(min_length=1, max_length=LONG)

    def card(self) -> str:
        """The channel in one line."""
        return f"{self.name}: {self.purpose}"


class PostScenario(AxisScenario):
    """A message to post to one of the ``channels``; its facts are in the ``documents``."""

    org: str = Field(min_length=1, max_length=LONG)
    user: Author
    task: str = Field(min_length=1, max_length=LONG)
    channels: list[Channel] = Field(min_length=1, max_length=1000)
    documents: list[Document] = Field(default=[], max_length=1000)
    context: list[str] = Field(default=[])

    def request(self) -> str:
        """The user's task; the facts are for the agent to look up."""
        return self.task

    def opening(self, tools: Sequence[Tool], form: CallFormat) -> list[dict[str, str]]:
        """The messages that a rollout begins with: the system prompt and the user's task."""
        system = POST_RULES.format(
            rule=form.rule,
            finish=finish_tool(tools).name,
            tools="\n".join(tool.signature() for tool in tools),
            user=f"{self.user.name}, {self.user.role}",
            org=self.org,
            context=bullets(self.context),
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": self.task}]

    def answer(self, tools: Sequence[Tool], call: Call) -> str | ToolError:
        """The result of a tool call; a query that finds no channel gets the names of all."""

        def channels(query: str) -> str | ToolError:
            cards = [channel.card() for channel in matching(self.channels, Channel.card, query)]
            names = ", ".join(channel.name for channel in self.channels)
            return "\n".join(cards) or ToolError(f"no channel matches {query!r}. Known: {names}.")

        return run_tool(tools, call, channels, self.documents)


class ReviewScenario(AxisScenario):
    """A change to code, in unified diff, with what its ``author`` says that it does."""

    project: str = Field(min_length=1, max_length=LONG)
    author: str = Field(min_length=1, max_length=200)
    change: str = Field(min_length=1, max_length=LONG)
    diff: str = Field(min_length=1, max_length=LONG)

    def request(self) -> str:
        """The change, and what its review should say."""
        return REVIEW.format_map(self.model_dump())


class FormField(Record):
    """One field of a form: a text, or one of the ``choices``."""

    name: str = Field(min_length=1, max_length=200)
    choices: list[str] = Field(default=[], max_length=100)


class FormScenario(AxisScenario):
    """A form to fill in with ``facts``; one of its fields is `SUMMARY`."""

    form: str = Field(min_length=1, max_length=300)
    org: str = Field(min_length=1, max_length=LONG)
    task: str = Field(min_length=1, max_length=LONG)
    facts: str = Field(min_length=1, max_length=LONG)
    fields: list[FormField] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _has_a_summary(self) -> "FormScenario":
        if SUMMARY not in [field.name for field in self.fields]:
            raise ValueError(f"fields: none is {SUMMARY}, the text that is classified")
        return self

    def request(self) -> str:
        """The facts, the fields of the form, and how to answer."""
        rules = {SUMMARY: SUMMARY_RULE}
        lines = [
            f"{field.name}: {' or '.join(field.choices) or rules.get(field.name, 'a few words')}"
            for field in self.fields
        ]
        return FORM.format_map({**self.model_dump(), "fields": bullets(lines)})

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of a form that is filled in."""
        names = [field.name for field in self.fields]
        return {
            "type": "object",
            "properties": {field.name: _schema_of(field) for field in self.fields},
            "required": names,
            "additionalProperties": False,
        }


class NeutralTurn(Record):
    """A question of the user and its answer, without any character."""

    user: str = Field(min_length=1, max_length=LONG)
    assistant: str = Field(min_length=1, max_length=LONG)


class DepthPrompt(AxisScenario):
    """A chat prompt, and the conversation before it."""

    prompt: str = Field(min_length=1, max_length=LONG)
    turns: list[NeutralTurn] = Field(max_length=1000)

    def request(self) -> str:
        """The prompt alone."""
        return self.prompt

    def messages(self, depth: int) -> list[dict[str, str]]:
        """The last ``depth`` turns of the conversation, then the prompt.

        What stands just before the prompt is the same at every depth. Raises ValueError where the
        conversation is shorter.
        """
        if depth > len(self.turns):
            raise ValueError(f"{self.id}: has {len(self.turns)} turns, not {depth}")
        history = [
            {"role": role, "content": text}
            for turn in self.turns[len(self.turns) - depth :]
            for role, text in (("user", turn.user), ("assistant", turn.assistant))
        ]
        return [*history, {"role": "user", "content": self.prompt}]


S = TypeVar("S", bound=AxisScenario)
AXIS_OF: dict[type[AxisScenario], str] = {
    PostScenario: AGENTIC_POST,
    ReviewScenario: CODE_REVIEW,
    FormScenario: STRUCTURED_FORM,
    DepthPrompt: CHAT_DEPTH,
}
"""The axis of each kind of scenario: the name of its file, and of its ceiling texts."""


def load_axis(kind: type[S]) -> list[S]:
    """The shipped scenarios of an axis."""
    source = AXES / f"{AXIS_OF[kind]}.jsonl"
    scenarios = [kind.parse(place, record) for place, record in read_records(source)]
    refuse_duplicates(source, [scenario.id for scenario in scenarios])
    return scenarios


@cache
def post_tools() -> tuple[Tool, ...]:
    """The tools of an agent that posts; exactly one of them ends a rollout."""
    return tuple(Tool.parse(TOOLS_FILE, entry) for entry in read_json(TOOLS_FILE))


def sha256_axes() -> str:
    """The digest of what the axes ask: the names and digests of scenarios and tools."""
    files = sorted(AXES.glob("*.json*"))
    lines = [f"{file.name} {sha256_file(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _schema_of(field: FormField) -> dict[str, Any]:
    if field.choices:
        return {"enum": field.choices}
    # a short field must not take the tokens that the summary needs
    length = {} if field.name == SUMMARY else {"maxLength": 80}
    return {"type": "string", "minLength": 1, **length}
