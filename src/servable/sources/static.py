"""A Source whose aspired versions never change."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.storage_path import StoragePath

T = TypeVar("T")


class StaticSource(Generic[T]):
    """Tells its Target once what is aspired: stream name to all its versions."""

    def __init__(self, versions: Mapping[str, Sequence[ServableData[T]]]) -> None:
        self._versions = versions

    def set_target(self, target: Target[T]) -> None:
        """Tell *target* everything, now."""
        for name, versions in self._versions.items():
            target.set_aspired_versions(name, versions)


class StaticStoragePathSource(StaticSource[StoragePath]):
    """Aspires one version, at one path."""

    def __init__(self, servable_id: ServableId, path: StoragePath) -> None:
        super().__init__({servable_id.name: [ServableData(servable_id, path)]})
