"""What a Source says about one version: how to get it, or what is wrong with it."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from servable.core.servable_id import ServableId
from servable.errors import ServingError

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class ServableData(Generic[T_co]):
    """
    The id of an aspired version with its data, or with the error instead.

    Attributes:
        id: which version.
        data: what the next stage needs (a path, a Loader); None with an error.
        error: why there is no data.
        attempt: equal for two calls that would load the same content.  A version
            that failed is loaded again when it is aspired with another attempt;
            one that is loaded is left alone, whatever the attempt.
    """

    id: ServableId
    data: T_co | None = None
    error: ServingError | None = None
    attempt: Hashable = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.error is None):
            raise ValueError(f"{self.id} needs either data or an error")


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """
    A load that failed last time, for the Source that the version comes from.

    Attributes:
        attempt: what the version was aspired with.
        error: why it is not loaded.
    """

    attempt: Hashable
    error: ServingError
