"""The cache: what is in it is whole, and it takes no more room than it may."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servable.errors import (
    Cancelled,
    DataLoss,
    InvalidArgument,
    ResourceExhausted,
)
from servable.sources.cache import Fetching, ModelCache
from servable.sources.file_lock import FileLock
from servable.sources.store import Content, Digest, RemoteFile

DATA = bytes(range(256)) * 40
MANIFESTS = 500  # they take room, too


class Counted(Fetching):
    """Counts what came and what was there."""

    def __init__(self) -> None:
        self.came = self.was_there = 0

    def received(self, size_bytes: int, *, was_there: bool) -> None:
        if was_there:
            self.was_there += size_bytes
        else:
            self.came += size_bytes


def version(data: bytes, name: str = "saved_model.pb", **more: Any) -> Content:
    """Return a version of one file, whose store sends *data*."""
    size = more.pop("size", len(data))
    digest = more.pop("digest", None)
    file = RemoteFile(name, size, f"{name} {data!r} {size}", digest)

    def read(_: RemoteFile, start: int) -> Iterator[bytes]:
        for begin in range(start, len(data), 1000):
            yield data[begin : begin + 1000]

    return Content((file,), more.pop("read", read), **more)


def content_of(path: str) -> dict[str, bytes]:
    top = Path(path)
    return {
        str(file.relative_to(top)): file.read_bytes()
        for file in top.rglob("*")
        if file.is_file()
    }


def used_bytes(cache: ModelCache) -> int:
    return sum(
        {
            status.st_ino: status.st_size
            for path in Path(cache._directory).glob("[bpv]*/**/*")
            if path.is_file() and (status := path.stat())
        }.values()
    )


def test_a_version_is_there_as_its_store_has_it(cache: ModelCache) -> None:
    lease = cache.fetch(version(DATA, "variables/variables.index"), Fetching())

    assert content_of(lease.path) == {"variables/variables.index": DATA}


def test_a_version_of_no_files_is_an_empty_directory(cache: ModelCache) -> None:
    lease = cache.fetch(Content((), lambda *_: iter(())), Fetching())

    assert content_of(lease.path) == {}


def test_what_is_there_is_not_fetched_again(cache: ModelCache) -> None:
    first, second = Counted(), Counted()
    path = cache.fetch(version(DATA), first).path
    again = cache.fetch(version(DATA), second).path

    assert path == again
    assert (first.came, first.was_there) == (len(DATA), 0)
    assert (second.came, second.was_there) == (0, len(DATA))


def test_a_file_that_another_version_has_is_not_fetched_again(
    cache: ModelCache, store: Any
) -> None:
    one = store.of({"vocabulary": DATA, "saved_model.pb": b"1"})
    two = store.of({"vocabulary": DATA, "saved_model.pb": b"2"})
    cache.fetch(one, Fetching())
    counted = Counted()
    lease = cache.fetch(two, counted)

    assert (counted.came, counted.was_there) == (1, len(DATA))
    assert content_of(lease.path) == {"vocabulary": DATA, "saved_model.pb": b"2"}


def test_what_breaks_off_goes_on_where_it_was(cache: ModelCache) -> None:
    starts: list[int] = []

    def read(_: RemoteFile, start: int) -> Iterator[bytes]:
        starts.append(start)
        yield DATA[start : start + 6000]
        if not start:
            raise ConnectionResetError

    content = version(DATA, read=read)
    with pytest.raises(ConnectionResetError):
        cache.fetch(content, Fetching())
    lease = cache.fetch(content, Fetching())

    assert starts == [0, 6000]
    assert content_of(lease.path) == {"saved_model.pb": DATA}


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        pytest.param(DATA[:-1], len(DATA), id="a byte is missing"),
        pytest.param(b"", len(DATA), id="nothing comes"),
        pytest.param(DATA + b"x", len(DATA), id="a byte too many"),
        pytest.param(b"x", 0, id="a byte instead of none"),
    ],
)
def test_another_size_is_no_version(cache: ModelCache, sent: bytes, size: int) -> None:
    with pytest.raises(DataLoss, match=rf"has {size} bytes, and {len(sent)} came"):
        cache.fetch(version(sent, size=size), Fetching())

    assert list(Path(cache._directory, "versions").iterdir()) == []


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_other_bytes_are_no_version_and_nothing_of_them_is_kept(
    cache: ModelCache, algorithm: str
) -> None:
    right = Digest(algorithm, hashlib.new(algorithm, DATA).hexdigest())
    corrupt = version(DATA[:-1] + b"x", digest=right)
    with pytest.raises(DataLoss, match=f"came with {algorithm}"):
        cache.fetch(corrupt, Fetching())
    lease = cache.fetch(version(DATA, digest=right), Fetching())

    assert list(Path(cache._directory, "partial").iterdir()) == []
    assert content_of(lease.path) == {"saved_model.pb": DATA}


def test_a_version_that_was_damaged_on_disk_is_fetched_again(
    cache: ModelCache,
) -> None:
    lease = cache.fetch(version(DATA), Fetching())
    lease.release()
    (file,) = Path(lease.path).iterdir()
    file.chmod(0o600)
    os.truncate(file, 10)
    again = cache.fetch(version(DATA), Fetching())

    assert content_of(again.path) == {"saved_model.pb": DATA}


def test_what_a_platform_adds_is_no_damage(cache: ModelCache) -> None:
    lease = cache.fetch(version(DATA), Fetching())
    (Path(lease.path) / "__pycache__").mkdir()
    (Path(lease.path) / "__pycache__" / "model.pyc").write_bytes(b"x")
    counted = Counted()

    assert cache.fetch(version(DATA), counted).path == lease.path
    assert counted.came == 0


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../x", "a//x", "./x", "", "a\0b", "a\\b", ".."]
)
def test_names_that_lead_elsewhere_are_refused(cache: ModelCache, name: str) -> None:
    with pytest.raises(InvalidArgument, match="no name of a file below a version"):
        cache.fetch(version(DATA, name), Fetching())


def test_nobody_waits_for_what_is_given_up(cache: ModelCache) -> None:
    class GivenUp(Fetching):
        def check(self) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        cache.fetch(version(DATA), GivenUp())


def test_room_is_made_of_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = ModelCache(str(tmp_path), 3 * len(DATA) + MANIFESTS)
    paths = []
    for number in range(3):
        lease = cache.fetch(version(DATA[1:] + bytes([number])), Fetching())
        lease.release()
        paths.append(lease.path)
        for other, path in enumerate(paths):
            lock = tmp_path / "locks" / Path(path).parent.name
            os.utime(lock, (other, other))
    again = cache.fetch(version(DATA[1:] + bytes([0])), Fetching())
    cache.fetch(version(DATA), Fetching())

    assert [Path(path).exists() for path in paths] == [True, False, True]
    assert used_bytes(cache) <= 3 * len(DATA) + MANIFESTS
    assert Path(again.path).exists()


def test_what_is_in_use_is_not_removed(tmp_path: Path) -> None:
    cache = ModelCache(str(tmp_path), len(DATA) + MANIFESTS)
    lease = cache.fetch(version(DATA), Fetching())
    with pytest.raises(ResourceExhausted, match="may hold 10740 bytes"):
        cache.fetch(version(DATA[:-1] + b"x"), Fetching())
    assert content_of(lease.path) == {"saved_model.pb": DATA}
    lease.release()

    cache.fetch(version(DATA[:-1] + b"x"), Fetching())
    assert not Path(lease.path).exists()


def test_a_version_that_is_larger_than_the_cache_removes_nothing(
    tmp_path: Path,
) -> None:
    cache = ModelCache(str(tmp_path), len(DATA) + MANIFESTS)
    lease = cache.fetch(version(DATA), Fetching())
    lease.release()
    with pytest.raises(ResourceExhausted):
        cache.fetch(version(DATA + DATA), Fetching())

    assert content_of(lease.path) == {"saved_model.pb": DATA}


_OTHER = """
import sys
from pathlib import Path
from servable.sources.cache import Fetching, ModelCache
from servable.sources.store import Content, RemoteFile

directory, size, log = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

def read(file, start):
    with log.open("a") as out:
        out.write(f"{start}\\n")
    for begin in range(start, size, 1000):
        print("fetching", flush=True)
        if sys.argv[4] == "slow":
            sys.stdin.readline()
        yield b"x" * min(1000, size - begin)

files = (RemoteFile("saved_model.pb", size, "one"),)
lease = ModelCache(directory).fetch(Content(files, read), Fetching())
print(lease.path, flush=True)
sys.stdin.readline()
"""


class Other:
    """Another server on the same cache, as a process."""

    def __init__(self, tmp_path: Path, pace: str) -> None:
        self.log = tmp_path / "log"
        arguments = [str(tmp_path / "cache"), "5000", str(self.log), pace]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OTHER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def __enter__(self) -> "Other":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_two_servers_fetch_one_version_once(tmp_path: Path) -> None:
    with Other(tmp_path, "slow") as first, Other(tmp_path, "slow") as second:
        # Whoever has the lock fetches, and the other one waits.
        (tmp_path / "log").touch()
        for server in (first, second):
            for _ in range(5):
                server.go_on()
        paths = {said for server in (first, second) for said in [_last(server)]}

    assert len(paths) == 1
    assert first.log.read_text().split() == ["0"]


def test_what_another_server_has_just_made_is_waited_for(cache: ModelCache) -> None:
    lease = cache.fetch(version(DATA), Fetching())
    lease.release()
    (made,) = (Path(cache._directory) / "versions").iterdir()
    lock = FileLock(str(Path(cache._directory) / "locks" / made.name))
    assert lock.try_acquire()

    class Waiting(Counted):
        """Waits for the other one, who then lets it in."""

        waits = 0

        def check(self) -> None:
            self.waits += 1
            lock.share()

    fetching = Waiting()
    again = cache.fetch(version(DATA), fetching)

    assert again.path == lease.path
    assert (fetching.came, fetching.waits) == (0, 1)


def _last(server: Other) -> str:
    while (said := server.says()) == "fetching":
        pass
    return said


def test_a_server_that_is_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    with Other(tmp_path, "slow") as first:
        assert first.says() == "fetching"
        first.go_on()
        assert first.says() == "fetching"
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with Other(tmp_path, "fast") as second:
        path = Path(_last(second))

        assert (path / "saved_model.pb").read_bytes() == b"x" * 5000


def test_a_version_that_another_server_uses_is_not_removed(tmp_path: Path) -> None:
    with Other(tmp_path, "fast") as other:
        path = Path(_last(other))
        cache = ModelCache(str(tmp_path / "cache"), 5000 + MANIFESTS)
        with pytest.raises(ResourceExhausted):
            cache.fetch(version(DATA[:5000]), Fetching())
        assert path.exists()
    cache.fetch(version(DATA[:5000]), Fetching())

    assert not path.exists()


def test_what_was_corrupt_can_be_discarded_unless_it_is_used(cache: ModelCache) -> None:
    content, counted = version(DATA), Counted()
    lease = cache.fetch(content, counted)
    cache.discard(content.identity)
    was_kept = Path(lease.path).is_dir()
    lease.release()
    cache.discard(content.identity)
    cache.fetch(content, counted).release()

    assert was_kept
    assert counted.came == 2 * len(DATA)
