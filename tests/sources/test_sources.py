"""Which Source gets which servable, and what happens when one moves."""

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from servable import plugins
from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.storage_path import StoragePath
from servable.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from servable.sources import registry
from servable.sources.cache import ModelCache
from servable.sources.registry import SourceOptions
from servable.sources.sources import Sources
from servable.sources.urls import place_of, redacted, redacted_text, scheme_of
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)
from servable.testing import FakeTarget


class Spoken:
    """A Source that says what a test has it say."""

    made: dict[str, "Spoken"]

    def __init__(self, _: SourceOptions) -> None:
        self.config = FileSystemStoragePathSourceConfig()
        self.target: Target[StoragePath | Loader] | None = None
        self.is_stopped = False

    def check(self, config: FileSystemStoragePathSourceConfig) -> None:
        for servable in config.servables:
            if "refused" in servable.base_path:
                raise InvalidArgument("refused")

    def set_target(self, target: Target[StoragePath | Loader]) -> None:
        self.target = target

    def set_config(self, config: FileSystemStoragePathSourceConfig) -> None:
        gone = set(self.names) - {s.servable_name for s in config.servables}
        self.config = config
        for name in gone:
            self.say(name)

    def stop(self) -> None:
        self.is_stopped = True

    @property
    def names(self) -> list[str]:
        return [servable.servable_name for servable in self.config.servables]

    def say(self, name: str, *versions: int) -> None:
        assert self.target
        self.target.set_aspired_versions(name, data(name, versions))


class One(Spoken):
    pass


class Two(Spoken):
    pass


def broken(_: SourceOptions) -> Spoken:
    raise RuntimeError("no licence")


def data(
    name: str, versions: Sequence[int]
) -> list[ServableData[StoragePath | Loader]]:
    return [ServableData(ServableId(name, v), StoragePath("/x")) for v in versions]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, cache: ModelCache) -> Sources:
    here = type(sys)("sources_of_tests")
    here.__dict__.update(One=One, Two=Two, broken=broken)
    monkeypatch.setitem(sys.modules, here.__name__, here)
    targets = {"file": "One", "two": "Two", "broken": "broken"}
    table = {name: f"{here.__name__}:{made}" for name, made in targets.items()}
    monkeypatch.setattr(plugins, "_BUILT_IN", {plugins.SOURCES: table})
    return Sources(SourceOptions(1.0, cache, model_roots=("/", "two://", "broken://")))


def config(**base_paths: str) -> FileSystemStoragePathSourceConfig:
    return FileSystemStoragePathSourceConfig(
        tuple(ServableToMonitor(name, path) for name, path in base_paths.items())
    )


def put_in_force(sources: Sources, new: FileSystemStoragePathSourceConfig) -> Any:
    sources.check(new)
    sources.set_config(new)
    return {key.rpartition(":")[2]: source for key, source in sources._sources.items()}


def test_each_servable_goes_to_the_source_of_its_scheme(sources: Sources) -> None:
    made = put_in_force(sources, config(a="/a", b="two://b", c="/c"))

    assert made["One"].names == ["a", "c"]
    assert made["Two"].names == ["b"]


def test_all_tell_the_one_target(sources: Sources) -> None:
    target: FakeTarget[StoragePath | Loader] = FakeTarget()
    made = put_in_force(sources, config(a="/a"))
    sources.set_target(target)
    made = put_in_force(sources, config(a="/a", b="two://b"))
    made["One"].say("a", 1)
    made["Two"].say("b", 2)

    assert target.aspired == {"a": data("a", [1]), "b": data("b", [2])}


def test_a_servable_that_moves_keeps_its_versions_until_there_are_others(
    sources: Sources,
) -> None:
    target: FakeTarget[StoragePath | Loader] = FakeTarget()
    sources.set_target(target)
    made = put_in_force(sources, config(a="/a"))
    made["One"].say("a", 1)
    made = put_in_force(sources, config(a="two://a"))
    made["One"].say("a", 9)
    assert target.aspired["a"] == data("a", [1])
    made["Two"].say("a", 2)

    assert target.aspired["a"] == data("a", [2])


def test_a_servable_that_is_removed_is_not_aspired_any_more(sources: Sources) -> None:
    target: FakeTarget[StoragePath | Loader] = FakeTarget()
    sources.set_target(target)
    put_in_force(sources, config(a="two://a", b="/b"))["Two"].say("a", 1)
    made = put_in_force(sources, config(b="/b"))

    assert target.aspired["a"] == []
    assert made["Two"].names == []


@pytest.mark.parametrize(
    ("base_path", "error", "text"),
    [
        pytest.param(
            "three://x",
            InvalidArgument,
            "No source for base paths with three://; known: broken, file, two",
            id="no such scheme",
        ),
        pytest.param(
            "broken://x",
            FailedPrecondition,
            "broken cannot be made: RuntimeError: no licence",
            id="a source that can not be made",
        ),
        pytest.param("two://refused", InvalidArgument, "refused", id="by its source"),
        pytest.param(
            "/a/../b", PermissionDenied, "--model_roots it may not", id="roots"
        ),
    ],
)
def test_what_is_refused_changes_nothing(
    base_path: str, error: type[Exception], text: str, sources: Sources
) -> None:
    made = put_in_force(sources, config(a="/a"))
    new = config(a="/other", b=base_path)
    if "three" in base_path:
        sources._options = SourceOptions(1.0, sources._options.cache)
    with pytest.raises(error, match=text):
        sources.check(new)

    assert [s.base_path for s in made["One"].config.servables] == ["/a"]


def test_stopping_stops_them_all(sources: Sources) -> None:
    made = put_in_force(sources, config(a="/a", b="two://b"))
    sources.stop()

    assert made["One"].is_stopped
    assert made["Two"].is_stopped


@pytest.mark.parametrize(
    "plugin", plugins.installed(plugins.SOURCES), ids=lambda plugin: plugin.name
)
def test_sources_that_are_installed_can_be_made(
    plugin: plugins.Plugin, cache: ModelCache
) -> None:
    registry.new_source(plugin, SourceOptions(-1, cache)).stop()


@pytest.mark.parametrize(
    ("base_path", "scheme", "shown"),
    [
        ("/models/m", "file", "/models/m"),
        ("/models/a@b:c", "file", "/models/a@b:c"),
        ("S3://bucket/m", "s3", "S3://bucket/m"),
        ("sqlite:////var/models.db#m", "sqlite", "sqlite:////var/models.db#m"),
        ("hf://org/repo@main/m", "hf", "hf://org/repo@main/m"),
        ("mlflow://h:50/m@champion", "mlflow", "mlflow://h:50/m@champion"),
        ("postgresql://me@/db?host=x#m", "postgresql", "postgresql://me@/db?…#m"),
        ("models:/m@champion", "models", "models:/m@champion"),
        (
            "postgresql+psycopg://me:secret@host:5432/db#m",
            "postgresql+psycopg",
            "postgresql+psycopg://me:…@host:5432/db#m",
        ),
        ("https://host/m?token=secret", "https", "https://host/m?…"),
    ],
)
def test_what_base_paths_say(base_path: str, scheme: str, shown: str) -> None:
    assert scheme_of(base_path) == scheme
    assert redacted(base_path) == shown


@pytest.mark.parametrize(
    ("base_path", "place"),
    [
        ("s3://bucket/models/m", "s3://bucket"),
        ("S3://bucket", "s3://bucket"),
        ("http://127.0.0.1:80/m", "http://127.0.0.1:80"),
        ("postgresql://user@host/db#m", "postgresql://user@host"),
        ("sqlite:////var/models.db#m", "sqlite://"),
        ("models:/m", "models://models:"),
        ("/models/m", "file://"),
    ],
)
def test_whom_a_base_path_is_asked_of(base_path: str, place: str) -> None:
    assert place_of(base_path) == place


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(
            "Connection timeout to host https://a.net/c?comp=list&sig=secret",
            "Connection timeout to host https://a.net/c?…",
            id="a query",
        ),
        pytest.param(
            "404, url='http://me:secret@host/m?token=secret' and more",
            "404, url='http://me:…@host/m?…' and more",
            id="a password and a query, between quotes",
        ),
        pytest.param("no host? 12:30@home", "no host? 12:30@home", id="no URL"),
    ],
)
def test_what_errors_say_of_urls_shows_no_secrets(text: str, shown: str) -> None:
    assert redacted_text(text) == shown
