"""What names one servable: a stream and a version number in it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ServableId:
    """
    Name of a servable stream, and the number of one version in it.

    Two servables with equal ids are interchangeable.
    """

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"
