"""Object stores and web servers: real ones, and what they and their lines do wrong."""

import contextlib
import dataclasses
import hashlib
import http.server
import importlib.util
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from servable import ModelConfig, Server, ServerOptions
from servable.client import Client
from servable.errors import Code, FailedPrecondition, Unavailable
from servable.sources import filesystems
from servable.sources.cache import Fetching, ModelCache
from servable.sources.object_store import ObjectStore, object_store_source, remote_file
from servable.sources.registry import SourceOptions
from servable.sources.store import Digest, RemoteFile
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)

pytestmark = [
    pytest.mark.filterwarnings(warning)
    for warning in (
        # aiohttp's sessions live as long as fsspec's loop, as long as the process.
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:Sending a large body:ResourceWarning",  # to put it there
    )
]
BIG = bytes(range(256)) * 4096 * 40  # 40 MiB, some reads of several pieces

needs_http = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None,
    reason="servable[http] is not installed",
)


def content_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@contextlib.contextmanager
def looking(
    cache: ModelCache, target: Any, *base_paths: str, poll_wait_s: float = 0.05
) -> Iterator[Any]:
    """Look at *base_paths* as m, m1, and so on."""
    source = object_store_source(SourceOptions(poll_wait_s, cache))
    source.set_config(
        FileSystemStoragePathSourceConfig(
            tuple(
                ServableToMonitor(f"m{number or ''}", base_path)
                for number, base_path in enumerate(base_paths)
            )
        )
    )
    source.set_target(target)
    try:
        yield source
    finally:
        source.stop()


class Counted(Fetching):
    """Counts what came and what was there."""

    def __init__(self) -> None:
        self.came = self.was_there = 0

    def received(self, size_bytes: int, *, was_there: bool) -> None:
        if was_there:
            self.was_there += size_bytes
        else:
            self.came += size_bytes


# Object stores


@dataclass
class Bucket:
    """
    A bucket of a store, behind a line that can break.

    Attributes:
        place: the URL of the bucket itself.
        put_at: writes a file of it, by another line.
        direct: a file system of fsspec's, by another line.
    """

    line: Any
    place: str
    put_at: Callable[[str, bytes], Any]
    direct: Any = None

    @property
    def url(self) -> str:
        return f"{self.place}/models/m"

    @property
    def name(self) -> str:
        return self.place.partition("://")[2]

    def put(self, name: str, data: bytes) -> None:
        self.put_at(f"models/m/{name}", data)


AZURE = (
    "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50u"
    "SRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
)


@pytest.fixture
def s3(
    request: pytest.FixtureRequest, broken_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    s3fs = pytest.importorskip("s3fs", reason="servable[s3] is not installed")
    port = request.getfixturevalue("moto_port")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    direct = s3fs.S3FileSystem(
        endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True
    )
    with broken_line(port) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        yield from bucket_of(direct, "s3", line)


@pytest.fixture
def gs(
    request: pytest.FixtureRequest, broken_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    gcsfs = pytest.importorskip("gcsfs.core", reason="servable[gcs] is not installed")
    port = request.getfixturevalue("gcs_port")
    direct = gcsfs.GCSFileSystem(
        endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True
    )
    with broken_line(port) as line:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", line.url)
        yield from bucket_of(direct, "gs", line)


@pytest.fixture
def az(
    request: pytest.FixtureRequest, broken_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    adlfs = pytest.importorskip("adlfs", reason="servable[azure] is not installed")
    port = request.getfixturevalue("azurite_port")
    direct = adlfs.AzureBlobFileSystem(
        connection_string=AZURE.format(port=port), skip_instance_cache=True
    )
    with broken_line(port) as line:
        connection = AZURE.format(port=line.port)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        yield from bucket_of(direct, "az", line)


@pytest.fixture
def hf(
    request: pytest.FixtureRequest, broken_line: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    reason = "servable[hf] is not installed"
    pytest.importorskip("huggingface_hub", reason=reason)
    fsspec = pytest.importorskip("fsspec")
    port = request.getfixturevalue("hub_port")
    repository = f"org/{uuid.uuid4().hex}"

    def put(name: str, data: bytes) -> None:
        url = f"http://127.0.0.1:{port}/{repository}/resolve/main/{quote(name)}"
        httpx.put(url, content=data).raise_for_status()

    with broken_line(port) as line:
        # The package reads its environment only when it is imported.
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": line.url})
        yield Bucket(line, f"hf://{repository}", put)


def bucket_of(direct: Any, scheme: str, line: Any) -> Iterator[Bucket]:
    """Make a bucket by way of *direct*, a file system of fsspec's."""
    name = f"bucket-{uuid.uuid4().hex}"
    direct.mkdir(name)
    filesystems.forget()
    type(direct).clear_instance_cache()
    yield Bucket(
        line,
        f"{scheme}://{name}",
        lambda path, data: direct.pipe_file(f"{name}/{path}", data),
        direct,
    )
    filesystems.forget()
    type(direct).clear_instance_cache()


@pytest.fixture(params=["s3", "gs", "az", "hf"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


def test_versions_come_from_a_bucket(
    bucket: Bucket, cache: ModelCache, waiting_target: Any
) -> None:
    bucket.put("1/saved_model.pb", b"one")
    bucket.put("2/saved_model.pb", b"two")
    bucket.put("2/variables/variables.data-00000-of-00001", BIG)
    bucket.put("readme", b"no version")
    bucket.put_at("models/m2/3/saved_model.pb", b"of another model")

    with looking(cache, waiting_target, bucket.url):
        (path,) = waiting_target.wait_for("m", 2)
        bucket.put("10/saved_model.pb", b"ten")
        (newer,) = waiting_target.wait_for("m", 10)

    assert content_of(path) == {
        "saved_model.pb": b"two",
        "variables/variables.data-00000-of-00001": BIG,
    }
    assert content_of(newer) == {"saved_model.pb": b"ten"}


def test_a_server_serves_from_a_bucket_and_takes_up_what_is_new(
    bucket: Bucket, tmp_path: Path
) -> None:
    pytest.importorskip("servable._engine", reason="the engine is not built")
    bucket.put("1/table.csv", b"word,id\na,1\n")
    options = ServerOptions(
        models=(ModelConfig("m", bucket.url, platform="hashmap"),),
        model_cache_dir=str(tmp_path / "cache"),
        file_system_poll_wait_s=0.1,
        grpc_host="127.0.0.1",
        grpc_port=0,
    )
    with Server(options) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        server.wait_until_available("m", timeout_s=30.0)
        first = client.predict("m", {"keys": ["a"]})
        bucket.put("2/table.csv", b"word,id\na,2\n")
        client.wait_until_ready("m", version=2, timeout=30.0)
        second = client.predict("m", {"keys": ["a"]})

    assert [(o.version, o["id"].tolist()) for o in (first, second)] == [
        (1, [1]),
        (2, [2]),
    ]


class Mended(logging.Handler):
    """Makes a line a good one when a load has failed."""

    def __init__(self, line: Any) -> None:
        super().__init__()
        self.told = ""
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        if "failed" in record.getMessage():
            self.told = record.getMessage()
            self._line.corrupts = ""


def test_a_corrupt_download_that_nothing_tells_of_is_fetched_again_when_it_fails(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("servable._engine", reason="the engine is not built")
    s3.line.corrupts = "table.jsonl"
    table = b'{"word": "a", "id": 1' + b" " * (6 << 20) + b"}"
    path = f"{s3.name}/models/m/1/table.jsonl"
    with s3.direct.open(path, "wb", block_size=5 << 20) as file:  # in two parts
        file.write(table)
    options = ServerOptions(
        models=(ModelConfig("m", s3.url, platform="hashmap"),),
        model_cache_dir=str(tmp_path / "cache"),
        file_system_poll_wait_s=0.1,
        wait_for_models=False,
        grpc_host="127.0.0.1",
        grpc_port=0,
    )

    log = logging.getLogger("servable.core.aspired_versions_manager")
    monkeypatch.setattr(log, "handlers", [mended := Mended(s3.line)])
    with Server(options) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.wait_until_ready("m", timeout=30.0)
        answer = client.predict("m", {"keys": ["a"]})
        kept = list((tmp_path / "cache" / "blobs").iterdir())

    assert mended.told
    assert answer["id"].tolist() == [1]
    assert [blob.read_bytes() == table for blob in kept] == [True]


def test_what_a_store_says_of_bytes_is_right(bucket: Bucket) -> None:
    files = {"small": b"one", "empty": b"", "inside/big": BIG}
    for name, data in files.items():
        bucket.put(f"1/{name}", data)
    found = {file.name: file for file in ObjectStore(bucket.url).content("1").files}

    assert found.keys() == files.keys()
    for name, data in files.items():
        assert found[name].size_bytes == len(data)
        if digest := found[name].digest:
            hashed = digest.start(len(data))
            hashed.update(data)
            assert hashed.hexdigest() == digest.hex
    assert found["small"].digest


def test_a_bucket_out_of_reach_keeps_what_there_was(
    bucket: Bucket, cache: ModelCache, waiting_target: Any
) -> None:
    bucket.put("1/saved_model.pb", b"one")
    with looking(cache, waiting_target, bucket.url):
        waiting_target.wait_for("m", 1)
        bucket.line.is_cut = True
        bucket.line.wait_until_asked(times=2)
        bucket.put("2/saved_model.pb", b"two")
        assert waiting_target.versions("m") == [1]
        bucket.line.is_cut = False
        waiting_target.wait_for("m", 2)


def test_a_corrupt_download_is_thrown_away(bucket: Bucket, cache: ModelCache) -> None:
    bucket.put("1/saved_model.pb", b"one")
    content = ObjectStore(bucket.url).content("1")
    bucket.line.corrupts = "saved_model.pb"
    with pytest.raises(Exception, match=r"(?i)checksum|the store says"):
        cache.fetch(content, Fetching())
    bucket.line.corrupts = ""
    lease = cache.fetch(content, Fetching())

    assert content_of(Path(lease.path)) == {"saved_model.pb": b"one"}


def test_a_download_that_breaks_off_goes_on(bucket: Bucket, cache: ModelCache) -> None:
    bucket.put("1/big", BIG)
    content = ObjectStore(bucket.url).content("1")
    reads = content.read

    def break_off(file: RemoteFile, start: int) -> Iterator[bytes]:
        yield next(reads(file, start))
        bucket.line.is_cut = True
        raise ConnectionError("broken off")

    with pytest.raises(ConnectionError):
        cache.fetch(dataclasses.replace(content, read=break_off), Fetching())
    bucket.line.is_cut = False
    counted = Counted()
    lease = cache.fetch(content, counted)

    assert content_of(Path(lease.path)) == {"big": BIG}
    assert counted.was_there > 0
    assert counted.came + counted.was_there == len(BIG)


def test_a_body_that_is_cut_short_goes_on_when_the_line_is_good_again(
    bucket: Bucket, cache: ModelCache, waiting_target: Any
) -> None:
    bucket.put("1/saved_model.pb", BIG)
    bucket.line.truncates = {"saved_model.pb": 1000}
    with looking(cache, waiting_target, bucket.url):
        bucket.line.wait_until_asked("saved_model.pb", times=3)
        assert waiting_target.calls == []
        bucket.line.truncates = {}
        (path,) = waiting_target.wait_for("m", 1)

    assert content_of(path) == {"saved_model.pb": BIG}


def test_names_with_spaces_and_signs_are_files_like_others(
    bucket: Bucket, cache: ModelCache
) -> None:
    files = {"words and more.txt": b"1", "a+b=c&d/50%.txt": b"2", "größe#1?.txt": b"3"}
    for name, data in files.items():
        bucket.put(f"1/{name}", data)
    lease = cache.fetch(ObjectStore(bucket.url).content("1"), Fetching())

    assert content_of(Path(lease.path)) == files


def test_a_bucket_or_directory_that_is_missing_is_a_missing_base_path(
    bucket: Bucket,
) -> None:
    bucket.put("1/saved_model.pb", b"one")
    for url in (f"{bucket.url}-none", f"{bucket.place}-none/m"):
        with pytest.raises(FileNotFoundError):
            list(ObjectStore(url).children())


@pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
def test_empty_objects_that_stand_for_directories_are_no_files(bucket: Bucket) -> None:
    for name in ("1/", "1/saved_model.pb", "1/variables/", "1/variables/index"):
        bucket.put(name, b"" if name.endswith("/") else b"x")
    store = ObjectStore(bucket.url)
    names = [file.name for file in store.content("1").files]

    assert (list(store.children()), names) == (
        ["1"],
        ["saved_model.pb", "variables/index"],
    )


# What only S3 does


def test_a_look_at_what_is_served_is_one_request(
    s3: Bucket, cache: ModelCache, waiting_target: Any
) -> None:
    for number in range(5):
        s3.put(f"{number}/saved_model.pb", b"graph")
        s3.put(f"{number}/variables/variables.index", b"index")
    options = SourceOptions(0.05, cache, is_available=lambda _: True)
    source = object_store_source(options)
    source.set_config(
        FileSystemStoragePathSourceConfig((ServableToMonitor("m", s3.url),))
    )
    source.set_target(waiting_target)
    waiting_target.wait_for("m", 4)
    before = len(waiting_target.calls)
    asked = len(s3.line.asked)
    waiting_target.wait_until(
        lambda: len(waiting_target.calls) >= before + 5, "five more looks"
    )
    source.stop()

    looks = len(waiting_target.calls) - before
    assert len(s3.line.asked) - asked <= looks + 1


def test_a_corrupt_download_is_never_told_as_a_version(
    s3: Bucket, cache: ModelCache, waiting_target: Any
) -> None:
    s3.put("1/saved_model.pb", b"one")
    with looking(cache, waiting_target, s3.url):
        waiting_target.wait_for("m", 1)
        s3.line.corrupts = "2/saved_model.pb"
        s3.put("2/saved_model.pb", b"two")
        waiting_target.wait_until(
            lambda: waiting_target.versions("m") == [1, 2], "error"
        )
        served, corrupt = waiting_target.aspired["m"]
        s3.line.corrupts = ""
        (path,) = waiting_target.wait_for("m", 2)

    assert served.data
    assert corrupt.error
    assert content_of(path) == {"saved_model.pb": b"two"}


def test_an_upload_in_parts_is_taken_without_a_hash(s3: Bucket) -> None:
    with s3.direct.open(
        f"{s3.name}/models/m/1/saved_model.pb", "wb", block_size=5 << 20
    ) as file:
        file.write(BIG)
    content = ObjectStore(s3.url).content("1")

    assert content.files[0].digest is None
    assert content.files[0].size_bytes == len(BIG)


def test_a_hash_is_not_read_into_the_etag_of_what_is_encrypted(
    s3: Bucket,
) -> None:
    s3.put("1/plain", b"one")
    s3.direct.call_s3(
        "put_object",
        Bucket=s3.name,
        Key="models/m/1/encrypted",
        Body=b"two",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="key",
    )
    files = {file.name: file for file in ObjectStore(s3.url).content("1").files}

    assert files["encrypted"].digest is None
    assert files["plain"].digest == Digest(
        "md5", hashlib.md5(b"one", usedforsecurity=False).hexdigest()
    )


def test_keys_that_lead_elsewhere_are_no_version(
    s3: Bucket, cache: ModelCache, waiting_target: Any, tmp_path: Path
) -> None:
    s3.put("1/saved_model.pb", b"one")
    s3.put("2/../../../../escaped", b"two")
    with looking(cache, waiting_target, s3.url):
        waiting_target.wait_until(
            lambda: waiting_target.versions("m") in ([1], [1, 2], [2]), "versions"
        )

    assert not list(tmp_path.rglob("escaped"))


# Web servers


class Pages(http.server.SimpleHTTPRequestHandler):
    """A directory on the web, with its listings; reads are not resumed."""

    def log_message(self, *_: object) -> None:
        pass


class RangedPages(Pages):
    """The same, for a server that can send a part of a file, and has ETags."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        if path.is_dir() or not asked:
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-*/{len(data)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def web(
    tmp_path: Path, broken_line: Any
) -> Iterator[Callable[[type[Pages]], contextlib.AbstractContextManager[Any]]]:
    with contextlib.ExitStack() as running:

        def start(pages: type[Pages]) -> Any:
            top = tmp_path / "www"
            top.mkdir()

            def handler(*arguments: Any) -> Pages:
                return pages(*arguments, directory=str(top))

            server = running.enter_context(
                http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            )
            server.daemon_threads = True
            threading.Thread(
                target=server.serve_forever, args=[0.02], daemon=True
            ).start()
            running.callback(server.shutdown)
            return running.enter_context(broken_line(server.server_address[1]))

        yield start


def write(top: Path, name: str, data: bytes) -> None:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@needs_http
@pytest.mark.parametrize("pages", [Pages, RangedPages])
def test_versions_come_from_a_web_server(
    pages: type[Pages], web: Any, cache: ModelCache, waiting_target: Any, tmp_path: Path
) -> None:
    line = web(pages)
    write(tmp_path / "www", "m/1/saved_model.pb", b"one")
    write(tmp_path / "www", "m/1/assets/words and more.txt", b"words")
    write(tmp_path / "www", "m/1/variables/variables.data", BIG)
    with looking(cache, waiting_target, f"{line.url}/m"):
        (path,) = waiting_target.wait_for("m", 1)

    assert content_of(path) == {
        "saved_model.pb": b"one",
        "assets/words and more.txt": b"words",
        "variables/variables.data": BIG,
    }


@needs_http
@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(RangedPages, id="and sends the rest"),
        pytest.param(Pages, id="and sends it all again"),
    ],
)
def test_a_body_from_a_web_server_that_is_cut_short_goes_on(
    pages: type[Pages], web: Any, cache: ModelCache, tmp_path: Path
) -> None:
    line = web(pages)
    write(tmp_path / "www", "m/1/big", BIG)
    line.truncates = {"big": 30_000_000}
    content = ObjectStore(f"{line.url}/m").content("1")
    with pytest.raises(Exception, match=r"(?i)payload|data|bytes"):
        cache.fetch(content, Fetching())
    line.truncates = {}
    counted = Counted()
    lease = cache.fetch(content, counted)

    assert content_of(Path(lease.path)) == {"big": BIG}
    assert line.asked[-1][2].startswith("bytes=")
    assert counted.was_there > 0
    assert counted.came + counted.was_there == len(BIG)


@needs_http
def test_a_missing_page_is_a_missing_base_path(web: Any) -> None:
    line = web(Pages)

    with pytest.raises(FileNotFoundError):
        list(ObjectStore(f"{line.url}/none").children())


@needs_http
def test_a_web_server_that_sends_elsewhere_is_not_followed(web: Any) -> None:
    other = web(Pages)

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{other.url}/")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        store = ObjectStore(f"http://127.0.0.1:{server.server_address[1]}/m")
        with pytest.raises(Unavailable, match="redirects to another server"):
            list(store.children())
        server.shutdown()

    assert other.asked == []


# The rest


def test_versions_come_from_memory(cache: ModelCache, waiting_target: Any) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe_file(f"/{name}/3/saved_model.pb", b"three")
    with looking(cache, waiting_target, f"memory://{name}"):
        (path,) = waiting_target.wait_for("m", 3)

    assert content_of(path) == {"saved_model.pb": b"three"}


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [
        ("s3", "s3"),
        ("gs", "gcs"),
        ("az", "azure"),
        ("https", "http"),
        ("hf", "hf"),
    ],
)
def test_what_is_not_installed_is_one_clear_line(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FailedPrecondition) as caught:
        ObjectStore(f"{scheme}://bucket/m")

    assert caught.value.message == (
        f"Base paths with {scheme}:// need the package fsspec; "
        f"install it with: pip install 'servable[{extra}]'"
    )
    assert caught.value.code == Code.FAILED_PRECONDITION


MD5 = "9dd4e461268c8034f5c8564e155c67a6"  # of b"x"
BASE64 = "ndTkYSaMgDT1yFZOFVxnpg=="


@pytest.mark.parametrize(
    ("info", "digest"),
    [
        pytest.param(
            {"size": 1, "ETag": f'"{MD5}"', "StorageClass": "STANDARD"},
            Digest("md5", MD5),
            id="s3",
        ),
        pytest.param(
            {"size": 1, "ETag": f'"{MD5}-3"', "StorageClass": "STANDARD"},
            None,
            id="s3, in parts",
        ),
        pytest.param(
            {"size": 1, "etag": "CPD", "md5Hash": BASE64}, Digest("md5", MD5), id="gcs"
        ),
        pytest.param({"size": 1, "etag": "CPD"}, None, id="gcs, composed"),
        pytest.param(
            {"size": 1, "content_settings": {"content_md5": bytes.fromhex(MD5)}},
            Digest("md5", MD5),
            id="azure",
        ),
        pytest.param(
            {"size": 1, "content_settings": {"content_md5": None}},
            None,
            id="azure, without",
        ),
        pytest.param(
            {"size": 1, "blob_id": "b", "lfs": {"sha256": "ab", "size": 1}},
            Digest("sha256", "ab"),
            id="hugging face, large file",
        ),
        pytest.param({"size": 1, "blob_id": "b", "lfs": None}, None, id="hugging face"),
        pytest.param({"size": 1, "ETag": f'"{MD5}"'}, None, id="some web server"),
        pytest.param(
            {"size": 1, "Content-MD5": BASE64}, Digest("md5", MD5), id="a better one"
        ),
        pytest.param({"size": 1, "Content-MD5": "?"}, None, id="one that lies"),
        pytest.param({"size": 1}, None, id="nothing"),
    ],
)
def test_what_stores_say_of_bytes(info: dict[str, Any], digest: Digest | None) -> None:
    assert remote_file("f", "u", info).digest == digest


@pytest.mark.parametrize(
    ("info", "other"),
    [
        ({"ETag": "a"}, {"ETag": "b"}),
        ({"etag": "a"}, {"etag": "b"}),
        ({"blob_id": "a"}, {"blob_id": "b"}),
        ({"LastModified": 1}, {"LastModified": 2}),
        ({"Last-Modified": "a"}, {"Last-Modified": "b"}),
        ({"size": 1}, {"size": 2}),
    ],
)
def test_another_file_has_another_identity(
    info: dict[str, Any], other: dict[str, Any]
) -> None:
    one, two = (remote_file("f", "u", found).identity for found in (info, other))

    assert one == remote_file("f", "u", dict(info)).identity
    assert one != two
    assert one != remote_file("f", "elsewhere", info).identity
