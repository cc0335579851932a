"""
The inputs in tests/corpora, for the parsers of Python.

Each is tried as it is, cut short at each place, and with single bytes replaced: it is
read or refused with a classified error, in no time.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from servable.apis import model_server_config_pb2, prediction_log_pb2
from servable.config import channel_arguments, model_server_config
from servable.config.text_format import parse_text_proto
from servable.errors import ServingError
from servable.platforms.tfrecord import read_records

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


PARSERS: dict[str, Callable[[bytes], None]] = {
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
    rust = (Path(__file__).parents[1] / "engine" / "src").glob("**/*.rs")
    replayed = "\n".join(path.read_text() for path in rust)

    assert {
        name
        for name in names - PARSERS.keys()
        if f'corpus::each("{name}"' not in replayed
    } == set()


def test_any_text_of_channel_arguments_is_read() -> None:
    for path in (CORPORA / "text_format").iterdir():
        channel_arguments.parse(path.read_bytes().decode(errors="replace"))
    known = channel_arguments.parse("grpc.keepalive_time_ms=" + "9" * 50 + ",,x=,=1")

    assert known.known == {"grpc.keepalive_time_ms": (1 << 63) - 1}
    assert known.unknown == ("x", "")
