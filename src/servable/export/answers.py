"""
Whether two answers say the same.

Numbers may differ by a tolerance, since compilers and threads may add in another
order; everything else must be equal.  Of integers, which may be ids, only the absolute
tolerance is one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.apis import classification_pb2, predict_pb2, regression_pb2
from servable.client.tensors import make_ndarray
from servable.errors import InvalidArgument, Unimplemented
from servable.export.requests import Log

RTOL: Final = 1e-4
ATOL: Final = 1e-5

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How far numbers may be apart: `atol + rtol * |expected|`, and integers `atol`.

    Raises:
        InvalidArgument: one of the two is negative or no number.
    """

    rtol: float = RTOL
    atol: float = ATOL

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not value >= 0:
                raise InvalidArgument(f"{name} must be 0 or more: {value}")


def arrays_of(log: Log, response: bytes) -> Arrays:
    """
    Return the outputs in the serialized *response* to *log*, by name.

    Raises:
        Unimplemented: it is of a kind that has no arrays.
    """
    match log.WhichOneof("log_type"):
        case "predict_log":
            predicted = predict_pb2.PredictResponse.FromString(response).outputs
            return {name: make_ndarray(predicted[name]) for name in sorted(predicted)}
        case "classify_log":
            classified = classification_pb2.ClassificationResponse.FromString(response)
            rows = classified.result.classifications
            return {
                "classes": np.array([[c.label for c in r.classes] for r in rows]),
                "scores": np.array(
                    [[c.score for c in r.classes] for r in rows], np.float32
                ),
            }
        case "regress_log":
            regressed = regression_pb2.RegressionResponse.FromString(response)
            values = [r.value for r in regressed.result.regressions]
            return {"outputs": np.array(values, np.float32)}
        case kind:
            raise Unimplemented(f"answers of {kind} cannot be compared")


def differences(
    expected: Arrays, actual: Arrays, tolerance: Tolerance
) -> Iterator[str]:
    """Yield, for people, what is different in *actual*; nothing if it is the same."""
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            yield f"output {name!r} is missing"
        elif name not in expected:
            yield f"output {name!r} is new"
        else:
            text = _difference(expected[name], actual[name], tolerance)
            if text:
                yield f"output {name!r}: {text}"


def _difference(expected: Any, actual: Any, tolerance: Tolerance) -> str:
    if expected.shape != actual.shape:
        return f"shape {list(expected.shape)} became {list(actual.shape)}"
    if not expected.size:
        return ""
    if expected.dtype.kind in "OSU" or actual.dtype.kind in "OSU":
        return _difference_of_texts(expected, actual)
    if expected.dtype != actual.dtype:
        return f"type {expected.dtype} became {actual.dtype}"
    return _difference_of_numbers(expected, actual, tolerance)


def _difference_of_texts(expected: Any, actual: Any) -> str:
    unlike = [
        at
        for at in np.ndindex(expected.shape)
        if _text(expected[at]) != _text(actual[at])
    ]
    if not unlike:
        return ""
    first = unlike[0]
    return (
        f"{len(unlike)} of {expected.size} texts differ, first "
        f"{_text(expected[first])!r} became {_text(actual[first])!r}"
    )


def _difference_of_numbers(expected: Any, actual: Any, tolerance: Tolerance) -> str:
    if expected.dtype.kind in "biu":
        apart = _distance_of_integers(expected, actual)
        alike = apart <= tolerance.atol
    else:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        expected, actual = expected.astype(wide), actual.astype(wide)
        alike = np.isclose(
            actual, expected, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True
        )
        with np.errstate(invalid="ignore"):  # of what is not finite
            apart = np.nan_to_num(np.abs(actual - expected), nan=np.inf)
    if alike.all():
        return ""
    at = np.unravel_index(np.argmax(np.where(alike, 0, apart)), apart.shape)
    return (
        f"{np.count_nonzero(~alike)} of {alike.size} numbers differ, most "
        f"{_number(expected[at])} became {_number(actual[at])}"
    )


def _distance_of_integers(expected: Any, actual: Any) -> Any:
    """Return how far they are apart, to the last bit."""
    ahead, behind = np.maximum(expected, actual), np.minimum(expected, actual)
    return np.subtract(ahead.astype(np.uint64), behind.astype(np.uint64))


def _number(value: Any) -> str:
    return str(value) if value.dtype.kind in "biu" else f"{value:.6g}"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)
