"""
TFRecord files: records of bytes, each between its length and two checksums.

A length that is not true is found before memory is taken for it, and checksums of
large records take a few milliseconds a megabyte.
"""

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from servable.errors import DataLoss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LENGTH: Final = struct.Struct("<Q")
_CHECKSUM: Final = struct.Struct("<I")
_HEADER_SIZE: Final = _LENGTH.size + _CHECKSUM.size

_POLYNOMIAL: Final = 0x82F63B78
_ALL_BITS: Final = 0xFFFFFFFF
_MASK_DELTA: Final = 0xA282EAD8
# Below this a loop over the bytes is faster than the other way.
_SMALL: Final = 4096


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(_table_entry(byte) for byte in range(256))


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """
    Yield the records of *file*, which can be sought in, from where it stands.

    As for TensorFlow, a file ends where there are not even a length and its checksum.

    Raises:
        DataLoss: A record is cut off, or is not what was written.
    """
    at = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(at)
    while len(header := file.read(_HEADER_SIZE)) == _HEADER_SIZE:
        length_bytes = header[: _LENGTH.size]
        if not _is_checksum(header[_LENGTH.size :], length_bytes):
            hint = "" if at else " (Is this even a TFRecord file?)"
            raise DataLoss(f"corrupted record at {at}{hint}")
        (length,) = _LENGTH.unpack(length_bytes)
        if length + _CHECKSUM.size > size - file.tell():
            raise _truncated(at)
        record = file.read(length)
        checksum = file.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise _truncated(at)
        if not _is_checksum(checksum, record):
            raise DataLoss(f"corrupted record at {at + _HEADER_SIZE}")
        yield record
        at += _HEADER_SIZE + length + _CHECKSUM.size


def _truncated(at: int) -> DataLoss:
    # With the quotation mark that TensorFlow has there.
    return DataLoss(
        f"truncated record at {at}' failed with Read less bytes than requested"
    )


def frame(record: bytes) -> bytes:
    """Return *record* as it stands in a file."""
    length = _LENGTH.pack(len(record))
    return b"".join(
        (
            length,
            _CHECKSUM.pack(masked_crc32c(length)),
            record,
            _CHECKSUM.pack(masked_crc32c(record)),
        )
    )


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of *data* as TFRecord files have it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ALL_BITS


def crc32c(data: bytes) -> int:
    """Return the CRC-32 of *data* with Castagnoli's polynomial."""
    if len(data) < _SMALL:
        return _over_bytes(_ALL_BITS, data) ^ _ALL_BITS
    # Half of the bits of the length: as many lanes as each has bytes, or twice that.
    num_lanes = 1 << len(data).bit_length() // 2
    in_lanes = len(data) // num_lanes * num_lanes
    crc = _over_lanes(data[:in_lanes], num_lanes)
    return _over_bytes(crc, data[in_lanes:]) ^ _ALL_BITS


def _is_checksum(checksum: bytes, data: bytes) -> bool:
    return checksum == _CHECKSUM.pack(masked_crc32c(data))


def _over_bytes(crc: int, data: bytes) -> int:
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _over_lanes(data: bytes, num_lanes: int) -> int:
    """
    Go over all lanes of *data* at once, and join what comes out.

    The checksum of two pieces is that of the first, moved by as many zero bytes as
    the second has, combined with that of the second; and moving is linear.
    """
    # Few files have records that are large enough to need it.
    import numpy as np  # noqa: PLC0415

    table = np.array(_TABLE, np.uint32)
    length = len(data) // num_lanes
    steps = np.frombuffer(data, np.uint8).reshape(num_lanes, length).T.copy()
    crcs = np.zeros(num_lanes, np.uint32)
    crcs[0] = _ALL_BITS
    for step in steps:
        crcs = table[(crcs ^ step) & 0xFF] ^ crcs >> 8
    bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    move = _power(table[bits & 0xFF] ^ bits >> 8, length, bits)
    while len(crcs) > 1:
        crcs = _apply(move, crcs[0::2]) ^ crcs[1::2]
        move = _apply(move, move)
    return int(crcs[0])


def _apply(
    matrix: "NDArray[np.uint32]", values: "NDArray[np.uint32]"
) -> "NDArray[np.uint32]":
    """Multiply bit vectors by a matrix of bits, given as what becomes of each bit."""
    import numpy as np  # noqa: PLC0415

    one = np.uint32(1)
    result = np.zeros_like(values)
    for bit, image in enumerate(matrix):
        result ^= (values >> np.uint32(bit) & one) * image
    return result


def _power(
    matrix: "NDArray[np.uint32]", exponent: int, identity: "NDArray[np.uint32]"
) -> "NDArray[np.uint32]":
    result = identity
    while exponent:
        if exponent & 1:
            result = _apply(matrix, result)
        matrix = _apply(matrix, matrix)
        exponent >>= 1
    return result
