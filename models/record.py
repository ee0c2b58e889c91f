"""The base of every record that a file holds."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from charprobe_lite.models.errors import bad_input
from charprobe_lite.models.files import sound_path

FilePath = Annotated[Path, AfterValidator(sound_path)]
"""A path in a file that anyone can have written."""


class Record(BaseModel):
    """A record that refuses unknown fields and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, place: object, value: Any) -> Self:
        """A value of a file as this record. Raises BadInput naming the place and the field."""
        with bad_input(place, ValidationError):
            return cls.model_validate(value)
