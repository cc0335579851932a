"""
The platform "sklearn": estimators of scikit-learn, kept by skops instead of pickle.

`model.skops` is loaded only if every type in it is one that skops knows as harmless,
or that `trusted_types.txt` beside it lists.  It runs in a process of its own.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.examples import FixedLenFeature, parse_examples
from servable.platforms.python.model import (
    CLASSIFY,
    PREDICT,
    REGRESS,
    Arrays,
    Signature,
    TensorSpec,
)
from servable.platforms.python.platform import WorkerPlatform, worker_platform

FILE: Final = "model.skops"
TRUSTED_FILE: Final = "trusted_types.txt"
_FEATURES: Final = "x"


class SklearnModel:
    """
    A PythonModel of an estimator.

    Signatures: `serving_default` has `x` (float32 or float64 [n, features]) in, and
    out what the estimator has of `label` or `value` (predict), `scores`
    (predict_proba, or else decision_function) and `transformed` (transform).
    Classifiers have `classify` and regressors `regress` besides, for tf.Example with
    one feature `x`.
    """

    threads = 1

    def __init__(self) -> None:
        self._estimator: Any = None
        self._width: int | None = None
        self._methods: dict[str, Callable[[npt.NDArray[Any]], Any]] = {}
        self._classes: npt.NDArray[Any] | None = None

    def load(self, path: str) -> None:
        """
        Read the estimator.

        Raises:
            NotFound: there is none.
            FailedPrecondition: skops is not installed.
            PermissionDenied: it has types that nobody trusts; it lists them.
            InvalidArgument: it is not what skops writes.
        """
        file = os.path.join(path, FILE)
        if not os.path.isfile(file):
            raise NotFound(f"There is no {FILE} in the version directory")
        try:
            from skops import io  # noqa: PLC0415 - optional
        except ImportError:
            raise FailedPrecondition(
                f"{FILE} needs skops: pip install 'servable[sklearn]'"
            ) from None
        trusted = _read_trusted(path)
        try:
            unknown = set(io.get_untrusted_types(file=file)) - set(trusted)
        except Exception as error:
            raise InvalidArgument(f"{FILE} cannot be read: {error}") from error
        if unknown:
            raise PermissionDenied(
                f"{FILE} has types that skops does not trust: "
                f"{', '.join(sorted(unknown))}; {TRUSTED_FILE} beside it may list "
                "those that are harmless, one on a line"
            )
        try:
            self._estimator = io.load(file, trusted=trusted)
        except Exception as error:
            raise InvalidArgument(f"{FILE} cannot be loaded: {error}") from error
        self._width = getattr(self._estimator, "n_features_in_", None)

    def signatures(self) -> Mapping[str, Signature]:
        """Return what the estimator can be asked, told from it by one row of zeros."""
        if self._width is None:
            raise InvalidArgument(f"The estimator in {FILE} was not fitted on a matrix")
        self._classes = _classes_of(self._estimator)
        self._methods = dict(_methods_of(self._estimator, self._classes is not None))
        if not self._methods:
            raise InvalidArgument(
                f"{type(self._estimator).__name__} has neither predict nor transform"
            )
        zeros = np.zeros((1, self._width), np.float32)
        outputs = {
            alias: _spec_of(_plain(method(zeros)))
            for alias, method in self._methods.items()
        }
        inputs = {_FEATURES: TensorSpec("float32", (None, self._width))}
        found = {"serving_default": Signature(inputs, outputs, PREDICT)}
        examples = {"inputs": TensorSpec("string", (None,))}
        if self._classes is not None and "scores" in outputs:
            count = len(self._classes)
            found["classify"] = Signature(
                examples,
                {
                    "classes": TensorSpec("string", (None, count)),
                    "scores": TensorSpec("float32", (None, count)),
                },
                CLASSIFY,
            )
        elif outputs.get("value") == TensorSpec("float32", (None,)):
            found["regress"] = Signature(
                examples, {"outputs": TensorSpec("float32", (None,))}, REGRESS
            )
        return found

    def run(self, signature_name: str, inputs: Arrays) -> Mapping[str, Any]:
        """
        Ask the estimator.

        Raises:
            InvalidArgument: it refuses the values, or an example lacks `x`.
        """
        if signature_name == "serving_default":
            return {
                alias: self._ask(method, inputs[_FEATURES])
                for alias, method in self._methods.items()
            }
        width = self._width or 0
        features = {_FEATURES: FixedLenFeature("float32", (width,))}
        x = parse_examples(inputs["inputs"], features)[_FEATURES]
        if signature_name == "regress":
            return {"outputs": self._ask(self._methods["value"], x)}
        names = [str(label).encode() for label in np.asarray(self._classes).tolist()]
        labels = np.empty((len(x), len(names)), object)
        labels[:] = names
        return {"classes": labels, "scores": self._ask(self._methods["scores"], x)}

    def _ask(
        self, method: Callable[[npt.NDArray[Any]], Any], x: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        try:
            return _plain(method(x))
        except ValueError as error:  # such as NaN where none may be
            raise InvalidArgument(str(error)) from None


def sklearn_platform(options: PlatformOptions, engine: object) -> WorkerPlatform:
    """Make the platform "sklearn"."""
    return worker_platform(
        "sklearn", "servable.platforms.sklearn:SklearnModel", options, engine
    )


def _read_trusted(path: str) -> Sequence[str]:
    try:
        with open(os.path.join(path, TRUSTED_FILE), encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        return []


def _classes_of(estimator: Any) -> npt.NDArray[Any] | None:
    classes = getattr(estimator, "classes_", None)
    is_one_vector = isinstance(classes, np.ndarray) and classes.ndim == 1
    return classes if is_one_vector else None


def _methods_of(
    estimator: Any, is_classifier: bool
) -> Sequence[tuple[str, Callable[[npt.NDArray[Any]], Any]]]:
    found = []
    if hasattr(estimator, "predict"):
        alias = "label" if is_classifier else "value"
        found.append((alias, estimator.predict))
    if hasattr(estimator, "predict_proba"):
        found.append(("scores", estimator.predict_proba))
    elif hasattr(estimator, "decision_function"):
        found.append(("scores", estimator.decision_function))
    if hasattr(estimator, "transform"):
        found.append(("transformed", estimator.transform))
    return found


def _plain(result: Any) -> npt.NDArray[Any]:
    """Return an array of few types: floats as float32, integers as int64, or texts."""
    array = np.asarray(result.toarray() if hasattr(result, "toarray") else result)
    match array.dtype.kind:
        case "f":
            return array.astype(np.float32)
        case "i" | "u":
            return array.astype(np.int64)
        case "b":
            return array
        case _:
            texts = np.empty(array.size, object)
            texts[:] = [str(value).encode() for value in array.reshape(-1).tolist()]
            return texts.reshape(array.shape)


def _spec_of(array: npt.NDArray[Any]) -> TensorSpec:
    return TensorSpec(array.dtype, (None, *array.shape[1:]))
