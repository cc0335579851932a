"""All Sources of a server as one: each servable goes to the one for its base path."""

import threading
from collections.abc import Sequence

from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.source import Target
from servable.core.storage_path import StoragePath
from servable.plugins import Plugin
from servable.sources.model_roots import check_base_path
from servable.sources.registry import (
    ServableSource,
    SourceOptions,
    new_source,
    source_plugin,
)
from servable.sources.urls import scheme_of
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)


class Sources:
    """
    A ServableSource that hands each servable to the Source of its URL's scheme.

    A Source is made when it is first needed.  A servable whose base path moves to
    another Source keeps its versions until that one tells of its own.  `check` and
    `set_config` are called from one thread at a time.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        # Guards what is told: who looks after a name, and whether anybody may tell.
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._target: Target[StoragePath | Loader] | None = None
        # By where the factory is, as "module:function".
        self._plugins: dict[str, Plugin] = {}
        self._sources: dict[str, ServableSource] = {}

    def check(self, config: FileSystemStoragePathSourceConfig) -> None:
        """
        Raise a ServingError if *config* can never be looked at.

        Raises:
            PermissionDenied: A base path is not below a model root.
            InvalidArgument: There is no Source for one.
            FailedPrecondition: What a Source needs is not installed.
        """
        for servable in config.servables:
            check_base_path(servable.base_path, self._options.model_roots)
        for key, share in self._shares(config).items():
            self._source(key).check(share)

    def set_target(self, target: Target[StoragePath | Loader]) -> None:
        """Begin to look, and tell *target*."""
        self._target = target
        for key, source in self._sources.items():
            source.set_target(_Gate(self, key))

    def set_config(self, config: FileSystemStoragePathSourceConfig) -> None:
        """Look at *config* from now on, which `check` has let pass."""
        shares = self._shares(config)
        with self._lock:
            before = self._owners
            self._owners = {
                servable.servable_name: key
                for key, share in shares.items()
                for servable in share.servables
            }
            gone = before.keys() - self._owners.keys()
        nothing = FileSystemStoragePathSourceConfig()
        for key in [*shares, *self._sources.keys() - shares.keys()]:
            self._source(key).set_config(shares.get(key, nothing))
        if self._target is not None:
            for name in gone:
                self._target.set_aspired_versions(name, [])

    def stop(self) -> None:
        """Look no more; nothing is un-aspired."""
        for source in self._sources.values():
            source.stop()

    def tell(
        self,
        key: str,
        name: str,
        versions: Sequence[ServableData[StoragePath | Loader]],
    ) -> None:
        """Pass on what the Source *key* says of *name*, if it has it to look after."""
        with self._lock:
            if self._owners.get(name) == key and self._target is not None:
                self._target.set_aspired_versions(name, versions)

    def _shares(
        self, config: FileSystemStoragePathSourceConfig
    ) -> dict[str, FileSystemStoragePathSourceConfig]:
        by_key: dict[str, list[ServableToMonitor]] = {}
        for servable in config.servables:
            plugin = source_plugin(scheme_of(servable.base_path))
            self._plugins[plugin.target] = plugin
            by_key.setdefault(plugin.target, []).append(servable)
        return {
            key: FileSystemStoragePathSourceConfig(
                tuple(servables), config.servable_versions_always_present
            )
            for key, servables in by_key.items()
        }

    def _source(self, key: str) -> ServableSource:
        if key not in self._sources:
            source = new_source(self._plugins[key], self._options)
            self._sources[key] = source
            if self._target is not None:
                source.set_target(_Gate(self, key))
        return self._sources[key]

    def __repr__(self) -> str:
        return f"<Sources {sorted(self._sources)}>"


class _Gate:
    """The Target of one Source."""

    def __init__(self, sources: Sources, key: str) -> None:
        self._sources = sources
        self._key = key

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[StoragePath | Loader]]
    ) -> None:
        """See Target."""
        self._sources.tell(self._key, name, versions)
