"""Models in databases: SQLite always, PostgreSQL where it is installed."""

import contextlib
import getpass
import importlib.util
import io
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servable.errors import (
    AlreadyExists,
    Code,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
)
from servable.sources import database
from servable.sources.cache import Fetching, ModelCache
from servable.sources.database import ModelDatabase, publish, publish_location, remove
from servable.sources.database_source import DatabaseStore, database_source
from servable.sources.registry import SourceOptions
from servable.sources.store import Content, LocalContent
from servable.sources.versions import (
    All,
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sqlalchemy") is None,
    reason="servable[database] is not installed",
)


def postgres_programs() -> str | None:
    """Return the directory of PostgreSQL's programs, as Debian or the PATH has them."""
    on_path = Path(shutil.which("initdb") or "/")
    places = [on_path.parent, *Path("/usr/lib/postgresql").glob("*/bin")]
    found = [str(place) for place in places if (place / "postgres").exists()]
    return max(found, default=None)


@contextlib.contextmanager
def postgres_server(programs: str) -> Iterator[str]:
    """Run a PostgreSQL of our own on a socket; it refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        if os.geteuid() == 0:
            shutil.chown(directory, user)
        options: Any = {"user": user, "cwd": directory, "stdout": subprocess.DEVNULL}
        data = f"{directory}/data"
        initdb = [f"{programs}/initdb", "-D", data, "-U", "me", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, stderr=subprocess.PIPE, **options)
        settings = [
            *("-c", "listen_addresses="),
            *("-c", f"unix_socket_directories={directory}"),
            *("-c", "fsync=off"),
        ]
        process = subprocess.Popen(
            [f"{programs}/postgres", "-D", data, *settings],
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        assert process.stderr
        log = process.stderr
        try:
            for line in log:
                if "ready to accept connections" in line:
                    break
            else:
                pytest.fail("PostgreSQL did not start")
            threading.Thread(target=log.read, daemon=True).start()
            yield f"postgresql://me@/postgres?host={directory}"
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM waits for connections
            process.wait(30)
            log.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("servable[postgresql] is not installed")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and has no user here")
    with postgres_server(programs) as url:
        yield url
        database._engine(url).dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'models.db'}"
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def model() -> str:
    """Return a name that no other test has in the one database of the session."""
    return f"m-{uuid.uuid4().hex}"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return a directory of a version, larger than one piece."""
    path = tmp_path / "exported"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"graph")
    (path / "variables" / "variables.index").write_bytes(os.urandom(9 << 20))
    return path


def content_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@contextlib.contextmanager
def looking(cache: ModelCache, target: Any, url: str, model: str) -> Iterator[None]:
    source = database_source(SourceOptions(0.05, cache))
    servable = ServableToMonitor("m", f"{url}#{model}")
    source.set_config(FileSystemStoragePathSourceConfig((servable,)))
    source.set_target(target)
    try:
        yield
    finally:
        source.stop()


def test_what_is_published_is_served(
    url: str, model: str, version: Path, cache: ModelCache, waiting_target: Any
) -> None:
    with looking(cache, waiting_target, url, model):
        assert publish(url, model, str(version)) == 1
        (first,) = waiting_target.wait_for("m", 1)
        (version / "saved_model.pb").write_bytes(b"better")
        assert publish(url, model, str(version)) == 2
        (second,) = waiting_target.wait_for("m", 2)
        remove(url, model, 2)
        (back,) = waiting_target.wait_for("m", 1)

    assert content_of(second) == content_of(version)
    assert content_of(first)["saved_model.pb"] == b"graph"
    assert back == first


def test_nothing_is_seen_of_a_version_that_is_being_published(
    url: str, model: str, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(url, model, str(version), 1)
    store = DatabaseStore(ServableToMonitor(model, url))
    seen = []

    class Interrupted(Exception):
        pass

    def interrupt(_: object) -> Any:
        pieces = iter([b"piece"])

        def read() -> bytes:
            if piece := next(pieces, None):
                return piece
            if url.startswith("postgresql"):  # SQLite has readers wait, or refuses
                seen.append(store.children())
            raise Interrupted

        return read

    (version / "saved_model.pb").write_bytes(b"another")
    monkeypatch.setattr(database, "_reader", interrupt)
    with pytest.raises(Interrupted):
        publish(url, model, str(version), 2)

    assert [*seen, store.children()] == [["1"]] * (len(seen) + 1)


def test_a_file_that_has_gone_is_not_made_again(tmp_path: Path, version: Path) -> None:
    file = tmp_path / "models.db"
    database = ModelDatabase(f"sqlite:///{file}")
    publish(f"sqlite:///{file}", "m", str(version))
    (row,) = database.rows("m")
    file.unlink()

    with pytest.raises(FileNotFoundError):
        database.rows("m")
    with pytest.raises(FileNotFoundError):
        next(database.read(row.sha256 or "", 0))
    assert not file.exists()


def test_versions_are_numbered_from_the_highest(
    url: str, model: str, version: Path
) -> None:
    numbers = [
        publish(url, model, str(version)),
        publish(url, model, str(version), 7),
        publish(url, model, str(version)),
        publish_location(url, model, "/elsewhere"),
    ]

    assert numbers == [1, 7, 8, 9]


def test_many_publish_at_a_time(url: str, model: str, version: Path) -> None:
    publish(url, model, str(version))
    numbers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: numbers.append(publish_location(url, model, "/elsewhere"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == [2, 3, 4]


def test_an_archive_that_versions_share_goes_with_the_last_of_them(
    url: str, model: str, version: Path, cache: ModelCache
) -> None:
    for _ in range(2):
        publish(url, model, str(version))
    store = DatabaseStore(ServableToMonitor(model, url))
    remove(url, model, 1)
    (left,) = store.children()
    content = store.content(left)
    assert isinstance(content, Content)
    lease = cache.fetch(content, Fetching())
    assert content_of(Path(lease.path)) == content_of(version)
    remove(url, model, 2)

    assert list(content.read(content.files[0], 0)) == []


def test_a_fetch_goes_on_in_the_middle_of_a_piece(
    url: str, model: str, version: Path
) -> None:
    publish(url, model, str(version))
    store = DatabaseStore(ServableToMonitor(model, url))
    store.children()
    content = store.content("1")
    assert isinstance(content, Content)
    (file,) = content.files
    whole = b"".join(content.read(file, 0))

    assert file.size_bytes == len(whole)
    assert b"".join(content.read(file, 5_000_001)) == whole[5_000_001:]


def test_a_place_in_a_row_is_served_from_there(
    url: str, model: str, version: Path, cache: ModelCache, waiting_target: Any
) -> None:
    with looking(cache, waiting_target, url, model):
        publish_location(url, model, str(version), 3)
        (path,) = waiting_target.wait_for("m", 3)

    assert path == version


def test_the_row_key_is_the_models_name_unless_the_base_path_says_another(
    tmp_path: Path, version: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    for name in ("a", "b c"):
        publish(url, name, str(version), 1 + len(name))

    for base_path, versions in {url: ["2"], f"{url}#b%20c": ["4"]}.items():
        assert DatabaseStore(ServableToMonitor("a", base_path)).children() == versions


def test_before_anything_is_published_the_base_path_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    store = DatabaseStore(ServableToMonitor("m", f"sqlite:///{path}"))

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            store.children()
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    "name", ["../escaped", "/escaped", "a/../../escaped"], ids=["up", "root", "hidden"]
)
def test_an_archive_that_leads_elsewhere_is_in_error(
    name: str, tmp_path: Path, cache: ModelCache
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.size = 1
        made.addfile(info, io.BytesIO(b"x"))
    packed.seek(0)
    ModelDatabase(url).add_archive("m", packed)
    store = DatabaseStore(ServableToMonitor("m", url))
    (child,) = store.children()
    content = store.content(child)
    assert isinstance(content, Content)
    with pytest.raises(InvalidArgument, match="no name of a file below a version"):
        cache.fetch(content, Fetching())

    assert not list(tmp_path.rglob("escaped"))


def test_bytes_that_changed_in_the_database_are_no_version(
    tmp_path: Path, version: Path, cache: ModelCache
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    publish(url, "m", str(version))
    pieces = database._tables().pieces
    with database._engine(url).begin() as connection:
        changed = pieces.update().where(pieces.c.number == 0)
        connection.execute(changed.values(data=b"x" * (4 << 20)))
    store = DatabaseStore(ServableToMonitor("m", url))
    store.children()
    content = store.content("1")
    assert isinstance(content, Content)
    with pytest.raises(ServingError) as caught:
        cache.fetch(content, Fetching())

    assert caught.value.code == Code.DATA_LOSS


@pytest.mark.parametrize(
    ("location", "roots", "found"),
    [
        pytest.param("/models/m/1", (), "/models/m/1", id="anywhere"),
        pytest.param("/models/m/1", ("/models",), "/models/m/1", id="below a root"),
        pytest.param("/etc", ("/models",), Code.PERMISSION_DENIED, id="elsewhere"),
        pytest.param("ftp://h/m/1", (), Code.FAILED_PRECONDITION, id="ftp"),
        pytest.param("sqlite:///x#m", (), Code.FAILED_PRECONDITION, id="a database"),
    ],
)
def test_where_places_may_be(
    location: str, roots: tuple[str, ...], found: str | Code, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    publish_location(url, "m", location)
    store = DatabaseStore(ServableToMonitor("m", url), roots)
    store.children()
    if isinstance(found, str):
        assert store.content("1") == LocalContent(found)
    else:
        with pytest.raises(ServingError) as caught:
            store.content("1")
        assert caught.value.code == found


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        pytest.param(
            lambda url, version: publish(url, "m", str(version), 1),
            AlreadyExists,
            "has version 1 of m already",
            id="a version that is there",
        ),
        pytest.param(
            lambda url, version: publish(url, "m", f"{version}/none"),
            NotFound,
            "There is no directory",
            id="a directory that is not there",
        ),
        pytest.param(
            lambda url, _: remove(url, "m", 9),
            NotFound,
            "has no version 9 of m",
            id="removing what is not there",
        ),
        pytest.param(
            lambda url, _: publish_location(url, "m", "relative/1"),
            InvalidArgument,
            "Expected an absolute path or URI as location; got relative/1",
            id="a relative place",
        ),
    ],
)
def test_what_publishing_refuses(
    what: Any, error: type[Exception], text: str, tmp_path: Path, version: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    publish(url, "m", str(version), 1)
    with pytest.raises(error, match=text):
        what(url, version)

    assert DatabaseStore(ServableToMonitor("m", url)).children() == ["1"]


def test_a_database_out_of_reach_keeps_what_there_was(
    tmp_path: Path, version: Path, cache: ModelCache, waiting_target: Any
) -> None:
    path = tmp_path / "models.db"
    url = f"sqlite:///{path}"
    publish(url, "m", str(version), 1)
    with looking(cache, waiting_target, url, "m"):
        waiting_target.wait_for("m", 1)
        good = path.read_bytes()
        path.write_bytes(b"no database at all" * 1000)
        calls = len(waiting_target.calls)
        publish_elsewhere = f"sqlite:///{tmp_path / 'other.db'}"
        publish(publish_elsewhere, "m", str(version), 1)
        path.write_bytes(good)
        waiting_target.wait_until(
            lambda: len(waiting_target.calls) > calls, "look at what is good again"
        )

    assert {tuple(d.id.version for d in v) for _, v in waiting_target.calls} == {(1,)}


@pytest.mark.parametrize(
    ("scheme", "extra", "missing"),
    [
        ("sqlite", "database", "sqlalchemy"),
        ("postgresql", "postgresql", "sqlalchemy"),
        ("postgresql", "postgresql", "psycopg"),
    ],
)
def test_what_is_not_installed_is_one_clear_line(
    scheme: str, extra: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else name
    )
    with pytest.raises(FailedPrecondition) as caught:
        ModelDatabase(f"{scheme}://x")

    assert caught.value.message == (
        f"Base paths with {scheme}:// need the package {missing}; "
        f"install it with: pip install 'servable[{extra}]'"
    )


def test_all_versions_may_be_served(
    tmp_path: Path, version: Path, cache: ModelCache, waiting_target: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'models.db'}"
    publish(url, "m", str(version))
    publish_location(url, "m", str(version))
    source = database_source(SourceOptions(0.05, cache))
    servable = ServableToMonitor("m", url, All())
    source.set_config(FileSystemStoragePathSourceConfig((servable,)))
    source.set_target(waiting_target)
    paths = waiting_target.wait_for("m", 1, 2)
    source.stop()

    assert content_of(paths[0]) == content_of(version)
    assert paths[1] == version
