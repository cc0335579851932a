"""
Warm-up: the requests that a SavedModel brings along, replayed before it is served.

What the runtime does only for the first requests is done by then.  The requests are
in a TFRecord file of PredictionLog messages, as TensorFlow Serving reads it; one that
fails fails the load.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, cast

from google.protobuf.message import DecodeError, Message

from servable.apis import prediction_log_pb2
from servable.errors import (
    DataLoss,
    InvalidArgument,
    ServingError,
    Unimplemented,
    from_exception,
)
from servable.platforms.tfrecord import read_records

if TYPE_CHECKING:
    from servable import _engine

_logger = logging.getLogger(__name__)

FILE: Final = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS: Final = 1000

_LOG_TYPES: Final = prediction_log_pb2.PredictionLog.DESCRIPTOR.oneofs_by_name[
    "log_type"
].fields
_NUMBERS: Final = {field.name: field.number for field in _LOG_TYPES}
REPLAYED: Final = frozenset(
    {"classify_log", "regress_log", "multi_inference_log", "predict_log"}
)


class Replays(Protocol):
    """What can be warmed up: servable._engine.Servable."""

    def replay(
        self,
        log_type: int,
        request: bytes,
        engine: "_engine.Engine | None" = None,
        all_batch_sizes: bool = False,
    ) -> bytes:
        """See servable._engine.Servable."""


class Counts(Protocol):
    """Whoever shows how warm-ups fared: servable._engine.Engine."""

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        """See servable._engine.Engine."""


class ModelWarmup:
    """
    Replays the requests that come with SavedModels.  Thread-safe.

    Args:
        engine: is told of every warm-up, and counts what runs in it.
        num_request_iterations: how often each request is replayed.
        num_threads: how many requests run at a time.
        all_batch_sizes: whether each runs as a batch of each of the allowed sizes.
    """

    def __init__(
        self,
        engine: Counts,
        num_request_iterations: int = 1,
        num_threads: int = 1,
        *,
        all_batch_sizes: bool = False,
    ) -> None:
        self._engine = engine
        self._num_request_iterations = num_request_iterations
        self._num_threads = num_threads
        self._all_batch_sizes = all_batch_sizes

    def run(self, path: str, servable: Replays) -> None:
        """
        Warm up *servable*, which was loaded from *path*; blocks until that is done.

        Without a file of requests there is nothing to do.

        Raises:
            DataLoss: The file is no TFRecord file, or is cut off.
            InvalidArgument: A record is no PredictionLog, or there are too many.
            Unimplemented: A record is of a kind that cannot be replayed.
            ServingError: What a request was answered with.
        """
        file = os.path.join(path, FILE)
        if not os.path.isfile(file):
            _logger.info("No warmup data file found at %s", file)
            return
        began = time.monotonic()
        read = _Counter()
        status = "OK"
        try:
            requests = read.count(_read_requests(file))
            if self._num_threads > 1:
                self._replay_at_once(servable, requests)
            else:
                for log_type, request in requests:
                    self._replay(servable, log_type, request)
        except ServingError as error:
            status = error.status_text
            raise
        finally:
            latency_s = time.monotonic() - began
            self._engine.record_warmup(path, status, read.number, latency_s)
        _logger.info(
            "Finished reading warmup data for model at %s. Number of warmup records "
            "read: %d. Elapsed time (microseconds): %d.",
            path,
            read.number,
            latency_s * 1e6,
        )

    def _replay_at_once(
        self, servable: Replays, requests: "Iterator[tuple[int, bytes]]"
    ) -> None:
        with ThreadPoolExecutor(self._num_threads, "warmup") as pool:
            replays = [
                pool.submit(self._replay, servable, log_type, request)
                for log_type, request in requests
            ]
            for replay in replays:
                replay.result()

    def _replay(self, servable: Replays, log_type: int, request: bytes) -> None:
        engine = cast("_engine.Engine", self._engine)
        for _ in range(self._num_request_iterations):
            try:
                servable.replay(log_type, request, engine, self._all_batch_sizes)
            except Exception as error:
                raise from_exception(error) from error


class _Counter:
    """Counts what goes through."""

    def __init__(self) -> None:
        self.number = 0

    def count(
        self, items: Iterator[tuple[int, bytes] | None]
    ) -> Iterator[tuple[int, bytes]]:
        for item in items:
            self.number += 1
            if item is not None:
                yield item


def _read_requests(path: str) -> Iterator[tuple[int, bytes] | None]:
    """Yield kind and serialized request of each record; None for one without any."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise from_exception(error) from error
        records = enumerate(read_records(file))
        while True:
            try:
                number, record = next(records)
            except StopIteration:
                return
            except OSError as error:
                raise from_exception(error) from error
            except DataLoss as error:
                raise DataLoss(
                    f"{error.message}. Please verify your warmup data is in "
                    "TFRecord format."
                ) from error
            if number == MAX_RECORDS:
                raise InvalidArgument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) "
                    f"at {path}"
                )
            yield _request(record, path)


def _request(record: bytes, path: str) -> tuple[int, bytes] | None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError:
        text = record.decode(errors="backslashreplace")
        raise InvalidArgument(
            f"Failed to parse warmup record: {text} from {path}"
        ) from None
    name = log.WhichOneof("log_type")
    if name is None:
        return None
    if name not in REPLAYED:
        raise Unimplemented(f"Unsupported log_type for warmup: {_NUMBERS[name]}")
    request = cast("Message", getattr(log, name).request)
    return _NUMBERS[name], request.SerializeToString()
