"""
The inputs in tests/corpora, for the parsers of Python.

Each is tried as it is, cut short at each place, and with single bytes replaced: it is
read or refused with a classified error, in no time.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from servable.apis import (
    auth_tokens_pb2,
    model_server_config_pb2,
    prediction_log_pb2,
)
from servable.cli.saved_model_summary import summarize
from servable.config import auth_tokens, channel_arguments, model_server_config
from servable.config.text_format import parse_text_proto
from servable.errors import ServingError
from servable.platforms.graph_ops import operations_of
from servable.platforms.session_config import session_config_of
from servable.platforms.table_files import open_table, read_declared
from servable.platforms.tfrecord import read_records
from servable.platforms.unrestored_variables import read_object_graph_model
from servable.sources import archive

CORPORA = Path(__file__).parent / "corpora"
PLACES = 64
BYTES = b'\x000"{\x7f\xff'


def variations(data: bytes) -> Iterator[bytes]:
    yield data
    for at in range(0, len(data), max(-(-len(data) // PLACES), 1)):
        yield data[:at]
        for byte in BYTES:
            yield data[:at] + bytes([byte]) + data[at + 1 :]


def read_text_format(data: bytes) -> None:
    config = parse_text_proto(data, model_server_config_pb2.ModelServerConfig, "/c")
    model_server_config.from_proto(config, {"tensorflow"})


def read_tfrecord(data: bytes) -> None:
    for record in read_records(io.BytesIO(data)):
        # What replays it parses it so.
        try:
            prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError:
            continue


def read_auth_tokens(data: bytes) -> None:
    message = parse_text_proto(data, auth_tokens_pb2.AuthTokens, "/t")
    for token in auth_tokens.from_proto(message, "/t"):
        assert len(token.sha256) == 32
        assert token.scopes


@contextlib.contextmanager
def version_with(name: str, data: bytes) -> Iterator[Path]:
    """Yield a version directory in which the file *name* is *data*."""
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        file = Path(directory) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        yield Path(directory)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def read_saved_model(data: bytes) -> None:
    with version_with("saved_model.pb", data) as path:
        (path / "variables").mkdir()
        (path / "variables" / "variables.index").touch()
        read_object_graph_model(str(path), ["serve"])
        for read in (lambda: operations_of(str(path)), lambda: summarize(path)):
            with contextlib.suppress(ServingError):
                read()


def read_saved_model_config(data: bytes) -> None:
    with version_with("assets.extra/saved_model_config.pb", data) as path:
        session_config_of(b"", str(path), None)


def read_table(data: bytes) -> None:
    with version_with("table.csv", data) as path:
        table = open_table(str(path), read_declared(str(path)))
        for _ in table.chunks():
            continue


def unpack_archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        inside = Path(directory) / "inside"
        inside.mkdir()
        try:
            archive.unpack(io.BytesIO(data), str(inside), 1 << 20)
        finally:
            beside = [path.name for path in Path(directory).iterdir()]
            links = [path for path in inside.rglob("*") if path.is_symlink()]
            shutil.rmtree(inside, ignore_errors=True)
        assert (beside, links) == (["inside"], [])


PARSERS: dict[str, Callable[[bytes], None]] = {
    "archive": unpack_archive,
    "auth_tokens": read_auth_tokens,
    "saved_model": read_saved_model,
    "saved_model_config": read_saved_model_config,
    "table": read_table,
    "text_format": read_text_format,
    "tfrecord": read_tfrecord,
}
FILES = [
    (name, path) for name in PARSERS for path in sorted((CORPORA / name).iterdir())
]


# What Python's own decoder of escapes says of odd ones, which are taken.
@pytest.mark.filterwarnings("ignore:.*invalid.*escape sequence:DeprecationWarning")
@pytest.mark.parametrize(
    ("parser", "path"), FILES, ids=[f"{name}/{path.name}" for name, path in FILES]
)
def test_what_is_kept_is_read_or_refused(parser: str, path: Path) -> None:
    for data in variations(path.read_bytes()):
        try:
            PARSERS[parser](data)
        except ServingError:
            continue


def test_every_corpus_is_replayed() -> None:
    names = {path.name for path in CORPORA.iterdir() if path.is_dir()}
    rust = Path(__file__).parents[1] / "engine" / "src" / "fuzzing.rs"

    assert {
        name
        for name in names - PARSERS.keys()
        if f', "{name}", ' not in rust.read_text()
    } == set()


def test_any_text_of_channel_arguments_is_read() -> None:
    for path in (CORPORA / "text_format").iterdir():
        channel_arguments.parse(path.read_bytes().decode(errors="replace"))
    known = channel_arguments.parse("grpc.keepalive_time_ms=" + "9" * 50 + ",,x=,=1")

    assert known.known == {"grpc.keepalive_time_ms": (1 << 63) - 1}
    assert known.unknown == ("x", "")
