"""
What the engine and the process of a model say to each other, as bytes.

The layout of each frame is told in engine/src/servable/worker/frame.rs, which is the
other side.  Nothing here knows models.
"""

import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.client import dtypes
from servable.client.dtypes import STRING

_ALIGNMENT: Final = 16
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Call:
    """What the engine asks of a model."""

    id: int
    method: str
    signature_name: str
    inputs: dict[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]


def read(stream: socket.socket) -> memoryview | None:
    """
    Return the body of the next frame, None at the end of the stream.  Blocks.

    Raises:
        EOFError: the stream ends within a frame.
    """
    head = bytearray(_U64.size)
    if not _fill(stream, memoryview(head)):
        return None
    body = np.empty(_U64.unpack(head)[0], np.uint8).data
    if body.nbytes and not _fill(stream, body):
        raise EOFError("a frame was cut short")
    return body


def parse_call(body: memoryview) -> Call:
    """Return the call in a frame; its arrays are read-only and share the memory."""
    reader = _Reader(body.toreadonly())
    number = reader.unpack(_U64)
    method, signature_name = reader.text(), reader.text()
    inputs = dict(reader.tensor() for _ in range(reader.unpack(_U32)))
    outputs = tuple(reader.text() for _ in range(reader.unpack(_U32)))
    return Call(number, method, signature_name, inputs, outputs)


def ready(signature_def_map: bytes, threads: int) -> list[bytes]:
    """Return the frame that says that a model is loaded."""
    return _framed(
        [_I32.pack(0), *_bytes(b""), *_bytes(signature_def_map), _U32.pack(threads)]
    )


def not_ready(code: int, message: str) -> list[bytes]:
    """Return the frame that says why a model is not loaded."""
    text = message.encode(errors="replace")
    return _framed([_I32.pack(code), *_bytes(text), *_bytes(b""), _U32.pack(0)])


def answer(number: int, tensors: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    """Return the frame that answers the call *number*, in pieces."""
    pieces: list[Any] = [_U64.pack(number), _I32.pack(0), *_bytes(b"")]
    pieces.append(_U32.pack(len(tensors)))
    size = sum(len(piece) for piece in pieces)
    for alias, array in tensors.items():
        head, data = _tensor(alias, array)
        padding = -(size + len(head)) % _ALIGNMENT if data is not None else 0
        pieces.append(head + bytes(padding))
        size += len(head) + padding
        if data is not None and data.nbytes:
            pieces.append(data)
            size += data.nbytes
    return [_U64.pack(size), *pieces]


def failure(number: int, code: int, message: str) -> list[bytes]:
    """Return the frame that says why the call *number* has no answer."""
    text = message.encode(errors="replace")
    return _framed([_U64.pack(number), _I32.pack(code), *_bytes(text)])


class _Reader:
    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def unpack(self, kind: struct.Struct) -> int:
        (value,) = kind.unpack_from(self._body, self._at)
        self._at += kind.size
        return int(value)

    def text(self) -> str:
        return str(self._take(self.unpack(_U32)), "utf-8")

    def tensor(self) -> tuple[str, npt.NDArray[Any]]:
        alias = self.text()
        dtype = dtypes.from_number(self.unpack(_I32))
        rank = self.unpack(_U32)
        shape = np.frombuffer(self._take(8 * rank), "<i8").tolist()
        count = int(np.prod(shape, dtype=np.int64))
        if dtype is STRING:
            lengths = np.frombuffer(self._take(4 * count), "<u4").tolist()
            texts = np.empty(count, object)
            for at, length in enumerate(lengths):
                texts[at] = bytes(self._take(length))
            texts.flags.writeable = False
            return alias, texts.reshape(shape)
        self._at += -self._at % _ALIGNMENT
        numpy_dtype = dtypes.to_numpy(dtype)
        data = self._take(count * numpy_dtype.itemsize)
        return alias, np.frombuffer(data, numpy_dtype).reshape(shape)

    def _take(self, count: int) -> memoryview:
        taken = self._body[self._at : self._at + count]
        self._at += count
        return taken


def _tensor(alias: str, array: npt.NDArray[Any]) -> tuple[bytes, memoryview | None]:
    """Return what stands before the elements, and dense elements."""
    dtype = dtypes.from_numpy(array.dtype)
    head = [*_bytes(alias.encode()), _I32.pack(dtype.number), _U32.pack(array.ndim)]
    head.append(np.array(array.shape, "<i8").tobytes())
    if dtype is STRING:
        texts: Sequence[bytes] = array.reshape(-1).tolist()
        head.append(np.array([len(text) for text in texts], "<u4").tobytes())
        head += texts
        return b"".join(head), None
    flat = np.ascontiguousarray(array).reshape(-1)
    return b"".join(head), flat.view(np.uint8).data


def _bytes(data: bytes) -> tuple[bytes, bytes]:
    return _U32.pack(len(data)), data


def _framed(pieces: list[bytes]) -> list[bytes]:
    return [_U64.pack(sum(map(len, pieces))), *pieces]


def _fill(stream: socket.socket, target: memoryview) -> bool:
    """Fill *target* from the stream; return False at its end, before any byte."""
    filled = 0
    while filled < target.nbytes:
        received = stream.recv_into(target[filled:])
        if not received:
            if filled:
                raise EOFError("a frame was cut short")
            return False
        filled += received
    return True
