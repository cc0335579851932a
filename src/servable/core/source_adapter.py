"""A Source of one kind of data made from a Source of another."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.errors import from_exception

S = TypeVar("S")
T = TypeVar("T")


class SourceAdapter(Generic[S, T]):
    """
    Converts what a Source says, version by version, and passes it on.

    A version whose conversion raises is passed on with that error, so that one bad
    version never holds up another.  Errors and attempts pass through unchanged.

    Args:
        convert: makes the new data from the old; must not block.
        target: who gets the result.
    """

    def __init__(
        self, convert: Callable[[ServableId, S], T], target: Target[T]
    ) -> None:
        self._convert = convert
        self._target = target

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[S]]
    ) -> None:
        """Convert each of *versions* and pass all of them on."""
        self._target.set_aspired_versions(name, [self._adapt(v) for v in versions])

    def _adapt(self, version: ServableData[S]) -> ServableData[T]:
        if version.data is None:
            return ServableData(version.id, None, version.error, version.attempt)
        try:
            data = self._convert(version.id, version.data)
        except Exception as exc:  # noqa: BLE001 - it travels on as the version's error
            error = from_exception(exc)
            return ServableData(version.id, None, error, version.attempt)
        return ServableData(version.id, data, None, version.attempt)
