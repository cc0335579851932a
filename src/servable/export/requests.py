"""
Requests that go along with a model: made from samples, kept as its warm-up file.

TensorFlow is not needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from servable.apis import prediction_log_pb2
from servable.client.examples import make_examples
from servable.client.signatures import shape_text
from servable.client.tensors import make_tensor_proto
from servable.errors import DataLoss, InvalidArgument, NotFound
from servable.platforms.tfrecord import frame, read_records
from servable.platforms.warmup import FILE as WARMUP_FILE
from servable.platforms.warmup import MAX_RECORDS

PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"

Log = prediction_log_pb2.PredictionLog


def request_log(
    signature_name: str,
    method_name: str,
    sample: Any,
    dtypes: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | None] | None] | None = None,
) -> Log:
    """
    Return a request for a signature.

    Args:
        signature_name: which.
        method_name: its method; decides what *sample* is.
        sample: for predict, values by the names of inputs; else one example or
            several, as servable.client has them.
        dtypes: for predict, types by the names of inputs, where they are known.
        shapes: the same for shapes, which TensorFlow does not check: operations may
            end the process for one that they do not expect.

    Raises:
        InvalidArgument: *sample* cannot be sent.
    """
    log = Log()
    try:
        if method_name == CLASSIFY:
            request: Any = log.classify_log.request
            request.input.example_list.examples.extend(_examples(sample))
        elif method_name == REGRESS:
            request = log.regress_log.request
            request.input.example_list.examples.extend(_examples(sample))
        else:
            request = log.predict_log.request
            for name, value in _by_input(sample).items():
                tensor = make_tensor_proto(value, (dtypes or {}).get(name))
                _check_shape(name, tensor, (shapes or {}).get(name))
                request.inputs[name].CopyFrom(tensor)
    except (TypeError, ValueError, InvalidArgument) as exc:
        raise InvalidArgument(
            f"a sample for signature {signature_name!r} cannot be sent: {exc}"
        ) from exc
    request.model_spec.signature_name = signature_name
    return log


def _by_input(sample: Any) -> Mapping[str, Any]:
    if isinstance(sample, Mapping):
        return sample
    raise InvalidArgument(
        f"it must have values by the names of inputs, and is {sample!r:.80}"
    )


def _check_shape(name: str, tensor: Any, wanted: Sequence[int | None] | None) -> None:
    if wanted is None:
        return
    given = [dim.size for dim in tensor.tensor_shape.dim]
    if len(given) != len(wanted) or any(
        size not in (None, found) for size, found in zip(wanted, given, strict=True)
    ):
        expected = shape_text(tuple(wanted))
        raise InvalidArgument(
            f"input {name!r} has shape {given}, and must have {expected}"
        )


def _examples(sample: Any) -> Sequence[Any]:
    return make_examples(sample if isinstance(sample, list | tuple) else [sample])


def request_of(log: Log) -> Any:
    """Return the request that *log* holds."""
    return getattr(log, log.WhichOneof("log_type") or "predict_log").request


def write_logs(path: Path, logs: Iterable[Log]) -> None:
    """Write *logs* as a TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(frame(log.SerializeToString()) for log in logs))


def write_warmup(model: Path, logs: Sequence[Log]) -> None:
    """
    Have *logs* go along with the SavedModel *model*, as its warm-up requests.

    Raises:
        InvalidArgument: there are more than a server replays.
    """
    if len(logs) > MAX_RECORDS:
        raise InvalidArgument(
            f"{len(logs)} samples are too many: a server replays {MAX_RECORDS}"
        )
    write_logs(model / WARMUP_FILE, logs)


def read_logs(path: Path) -> list[Log]:
    """
    Return the requests in a TFRecord file.

    Raises:
        DataLoss: it is no such file.
        NotFound: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return [Log.FromString(record) for record in read_records(file)]
    except DecodeError:
        raise DataLoss(f"{path} has a record that is no PredictionLog") from None
    except DataLoss as exc:
        raise DataLoss(f"{path} is no TFRecord file: {exc.message}") from None
    except OSError as exc:
        raise NotFound(f"{path} cannot be read: {exc.strerror}") from exc


def read_warmup(model: Path) -> list[Log]:
    """Return the warm-up requests that come with *model*; none if there is no file."""
    path = model / WARMUP_FILE
    return read_logs(path) if path.is_file() else []
