"""
The platform "xgboost": boosters in XGBoost's own formats, JSON and UBJ; no pickle.

`model.json` or `model.ubj` runs in a process of its own.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.errors import FailedPrecondition, InvalidArgument, NotFound
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.examples import FixedLenFeature, parse_examples
from servable.platforms.python.model import (
    CLASSIFY,
    REGRESS,
    Arrays,
    Signature,
    TensorSpec,
)
from servable.platforms.python.platform import WorkerPlatform, worker_platform

FILES: Final = ("model.json", "model.ubj")
_FEATURES: Final = "x"


class XGBoostModel:
    """
    A PythonModel of a booster.

    Signatures: `serving_default` has `x` (float32 [n, features], NaN where a value is
    missing) in and `prediction` (float32 [n], or [n, k] of several classes or targets)
    out, as Booster.inplace_predict gives it.  For tf.Example with one feature `x`
    there is `classify`, where the objective gives probabilities of classes (named
    "0", "1", ...), or else `regress`.
    """

    threads = 4  # prediction is thread-safe

    def __init__(self) -> None:
        self._booster: Any = None
        self._width = 0
        self._is_classifier = False

    def load(self, path: str) -> None:
        """
        Read the booster.

        Raises:
            NotFound: there is none.
            FailedPrecondition: XGBoost is not installed.
            InvalidArgument: XGBoost refuses it.
        """
        files = [os.path.join(path, name) for name in FILES]
        file = next(filter(os.path.isfile, files), None)
        if file is None:
            raise NotFound(f"There is no {' or '.join(FILES)} in the version directory")
        try:
            import xgboost  # noqa: PLC0415 - optional
        except ImportError:
            raise FailedPrecondition(
                f"{os.path.basename(file)} needs XGBoost: pip install "
                "'servable[xgboost]'"
            ) from None
        self._booster = xgboost.Booster()
        try:
            self._booster.load_model(file)
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidArgument(
                f"{os.path.basename(file)} cannot be loaded: {text}"
            ) from error
        self._booster.feature_names = None  # tensors have none
        self._width = self._booster.num_features()

    def signatures(self) -> Mapping[str, Signature]:
        """Return what the booster can be asked, told from it by one row of zeros."""
        import json  # noqa: PLC0415 - once

        objective = json.loads(self._booster.save_config())["learner"]["objective"]
        self._is_classifier = objective["name"] in ("binary:logistic", "multi:softprob")
        shape = self._predict(np.zeros((1, self._width), np.float32)).shape[1:]
        inputs = {_FEATURES: TensorSpec("float32", (None, self._width))}
        outputs = {"prediction": TensorSpec("float32", (None, *shape))}
        found = {"serving_default": Signature(inputs, outputs)}
        examples = {"inputs": TensorSpec("string", (None,))}
        if self._is_classifier:
            count = shape[0] if shape else 2
            found["classify"] = Signature(
                examples,
                {
                    "classes": TensorSpec("string", (None, count)),
                    "scores": TensorSpec("float32", (None, count)),
                },
                CLASSIFY,
            )
        elif not shape:
            found["regress"] = Signature(
                examples, {"outputs": TensorSpec("float32", (None,))}, REGRESS
            )
        return found

    def run(self, signature_name: str, inputs: Arrays) -> Mapping[str, Any]:
        """
        Ask the booster.

        Raises:
            InvalidArgument: an example lacks `x`.
        """
        if signature_name == "serving_default":
            return {"prediction": self._predict(inputs[_FEATURES])}
        features = {_FEATURES: FixedLenFeature("float32", (self._width,))}
        prediction = self._predict(
            parse_examples(inputs["inputs"], features)[_FEATURES]
        )
        if signature_name == "regress":
            return {"outputs": prediction}
        if prediction.ndim == 1:  # the probability of the second of two classes
            prediction = np.stack([1 - prediction, prediction], axis=1)
        labels = np.empty(prediction.shape, object)
        labels[:] = [str(label).encode() for label in range(prediction.shape[1])]
        return {"classes": labels, "scores": prediction}

    def _predict(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not len(x):  # which XGBoost does not take
            shape = self._predict(np.zeros((1, self._width), np.float32)).shape[1:]
            return np.empty((0, *shape), np.float32)
        prediction = self._booster.inplace_predict(x)
        return np.asarray(prediction, np.float32)


def xgboost_platform(options: PlatformOptions, engine: object) -> WorkerPlatform:
    """Make the platform "xgboost"."""
    return worker_platform(
        "xgboost", "servable.platforms.xgboost:XGBoostModel", options, engine
    )
