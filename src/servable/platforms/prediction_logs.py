"""
Files of PredictionLog records: what request logging writes and warm-up replays.

Reading yields what is whole.  A file that is still being written to, or whose server
died, may end in the middle of a record; that is told, and no error.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.message import DecodeError, Message

from servable.apis import model_pb2, prediction_log_pb2
from servable.errors import DataLoss, InvalidArgument
from servable.platforms.tfrecord import frame, read_records

PART: Final = ".part"
"""What the name of a file ends with while the server writes to it."""

_LOG_TYPES: Final = prediction_log_pb2.PredictionLog.DESCRIPTOR.oneofs_by_name[
    "log_type"
].fields
_NUMBERS: Final = {field.name: field.number for field in _LOG_TYPES}
KINDS: Final = tuple(field.name.removesuffix("_log") for field in _LOG_TYPES)


@dataclass(frozen=True, slots=True)
class Record:
    """
    A record, and what all kinds have in common.

    kind is one of KINDS, or "" for a record without any; number is that of its field.
    The version is that which answered, None where the record does not tell; time is
    in seconds since 1970, 0 where the record does not tell.
    """

    log: prediction_log_pb2.PredictionLog
    kind: str
    number: int
    model: str
    version: int | None
    signature_name: str
    time: int

    @property
    def request(self) -> Message:
        """The request message; that of a streamed kind is its first."""
        return self._part("request")

    @property
    def response(self) -> Message:
        """The response message, which is empty where there is none."""
        return self._part("response")

    def _part(self, name: str) -> Message:
        part: Any = getattr(getattr(self.log, f"{self.kind}_log"), name)
        if isinstance(part, Message):
            return part
        return cast("Message", part[0] if part else part.add())


def read(path: Path, cut_off: Callable[[str], None]) -> Iterator[Record]:
    """
    Yield the records of the file at *path*; *cut_off* is told if it ends in one.

    Raises:
        DataLoss: It is no TFRecord file, or damaged.
        InvalidArgument: A record is no PredictionLog.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        records = read_records(file)
        number = 0
        while True:
            try:
                data = next(records)
            except StopIteration:
                return
            except DataLoss as error:
                if not error.message.startswith("truncated"):
                    raise DataLoss(f"{path}: {error.message}") from None
                cut_off(f"{path}: {error.message}")
                return
            try:
                yield record(prediction_log_pb2.PredictionLog.FromString(data))
            except DecodeError:
                raise InvalidArgument(
                    f"record {number} of {path} is no PredictionLog"
                ) from None
            number += 1


def record(log: prediction_log_pb2.PredictionLog) -> Record:
    """Return *log* with what its metadata, or else its request, says of it."""
    name = log.WhichOneof("log_type") or ""
    spec = log.log_metadata.model_spec
    if name and not spec.name:
        spec = _spec_of_request(log, name)
    return Record(
        log,
        name.removesuffix("_log"),
        _NUMBERS.get(name, 0),
        spec.name,
        spec.version.value if spec.HasField("version") else None,
        spec.signature_name,
        log.log_metadata.timestamp_secs,
    )


def write(path: Path, logs: Iterable[prediction_log_pb2.PredictionLog]) -> int:
    """
    Write a file of *logs* at once; return how many there were.

    Whoever reads the path meanwhile finds what was there before, or all of it.

    Raises:
        OSError: It cannot be written; then nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    number = 0
    try:
        with open(handle, "wb") as file:
            for log in logs:
                file.write(frame(log.SerializeToString()))
                number += 1
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # whoever may read the model may read this
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    return number


def _spec_of_request(
    log: prediction_log_pb2.PredictionLog, name: str
) -> model_pb2.ModelSpec:
    request: Any = getattr(log, name).request
    if name == "multi_inference_log":
        tasks = request.tasks
        return tasks[0].model_spec if tasks else model_pb2.ModelSpec()
    if name == "predict_streamed_log":
        return request[0].model_spec if request else model_pb2.ModelSpec()
    spec: model_pb2.ModelSpec = request.model_spec
    return spec
