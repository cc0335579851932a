"""TFRecord files, good, broken and made up."""

import io
import struct
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servable.errors import DataLoss
from servable.platforms import tfrecord
from servable.platforms.tfrecord import crc32c, frame, read_records

# From the file of a recorded exchange: a length, the checksum that it has there, and
# the record of no bytes with its own.
LENGTH_0x25 = bytes.fromhex("2500000000000000eabc36f3")
EMPTY = bytes.fromhex("000000000000000029039807d8ea82a2")


def records(data: bytes) -> list[bytes]:
    return list(read_records(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"123456789", 0xE3069283, id="the usual check value"),
        pytest.param(bytes(32), 0x8A9136AA, id="zeros, from RFC 3720"),
        pytest.param(b"\xff" * 32, 0x62A8AB43, id="ones, from RFC 3720"),
        pytest.param(bytes(range(32)), 0x46DD794E, id="rising, from RFC 3720"),
    ],
)
def test_known_checksums(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def test_frames_are_those_of_other_writers() -> None:
    assert frame(b"x" * 0x25).startswith(LENGTH_0x25)
    assert frame(b"") == EMPTY


@settings(deadline=None)  # the first time imports numpy
@given(st.binary(min_size=1, max_size=64), st.integers(4000, 70_000))
@example(b"\x00", 1 << 16)
@example(b"\x01", (1 << 16) - 1)
def test_large_records_have_the_checksum_of_a_loop_over_their_bytes(
    pattern: bytes, size: int
) -> None:
    data = (pattern * (size // len(pattern) + 1))[:size]

    assert crc32c(data) == tfrecord._over_bytes(0xFFFFFFFF, data) ^ 0xFFFFFFFF


def test_a_checksum_of_megabytes_takes_no_seconds() -> None:
    data = bytes(range(256)) * (32 << 10)
    began = time.process_time()

    crc32c(data)

    assert time.process_time() - began < 2.0


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_what_was_written_is_read(written: list[bytes]) -> None:
    assert records(b"".join(map(frame, written))) == written


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.data())
def test_a_file_that_is_cut_off_within_a_record_is_data_loss(
    written: list[bytes], data: st.DataObject
) -> None:
    frames = [frame(record) for record in written]
    last = len(frames[-1])
    keep = data.draw(st.integers(12, last - 1))

    with pytest.raises(DataLoss, match=r"^truncated record at"):
        records(b"".join(frames[:-1]) + frames[-1][:keep])


@given(st.lists(st.binary(max_size=40), max_size=3), st.binary(max_size=11))
def test_less_than_a_length_and_its_checksum_ends_a_file(
    written: list[bytes], rest: bytes
) -> None:
    assert records(b"".join(map(frame, written)) + rest) == written


@given(st.binary(max_size=40), st.data())
def test_a_bit_that_changed_is_data_loss(record: bytes, data: st.DataObject) -> None:
    framed = bytearray(frame(record))
    bit = data.draw(st.integers(0, 8 * len(framed) - 1))
    framed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DataLoss, match=r"^corrupted record at (0 \(Is this|12$)"):
        records(bytes(framed))


@given(st.binary(max_size=200))
@example(struct.pack("<Q", 1 << 63) + b"1234")
def test_any_bytes_are_records_or_data_loss(data: bytes) -> None:
    try:
        found = records(data)
    except DataLoss:
        return

    assert 0 <= len(data) - len(b"".join(map(frame, found))) < 12


def test_a_length_that_is_not_true_takes_no_memory() -> None:
    length = struct.pack("<Q", 1 << 62)
    checksum = struct.pack("<I", tfrecord.masked_crc32c(length))

    with pytest.raises(DataLoss, match=r"^truncated record at 0' failed with"):
        records(length + checksum + b"x" * 100)
