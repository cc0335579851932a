"""
What a model offers to serve, and the signature that each kind of it makes.

An ExportOutput checks its tensors when it is made, and what it is served from when
its signature is made; a ValueError of the latter leaves that signature out of an
export.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from servable.export._tensorflow import tf

DEFAULT_KEY: Final = "serving_default"
_SEPARATOR: Final = "/"


class ExportOutput(abc.ABC):
    """Something that a model offers to serve."""

    @abc.abstractmethod
    def as_signature_def(self, receiver_tensors: Mapping[str, Any]) -> Any:
        """
        Return the SignatureDef from *receiver_tensors* to this.

        Raises:
            ValueError: requests of this kind cannot be fed to those tensors.
        """


class ClassificationOutput(ExportOutput):
    """
    Scores, classes or both, one row for each example, for Classify requests.

    Args:
        scores: floating tensor of shape [batch, classes].
        classes: string tensor of the same shape.

    Raises:
        ValueError: neither is given, or one is of a wrong type.
    """

    def __init__(self, scores: Any = None, classes: Any = None) -> None:
        if scores is not None and not _is_tensor(scores, "is_floating"):
            raise ValueError(
                f"Classification scores must be a float32 Tensor; got {scores}"
            )
        if classes is not None and not (
            _is_tensor(classes) and classes.dtype == tf.string
        ):
            raise ValueError(
                f"Classification classes must be a string Tensor; got {classes}"
            )
        if scores is None and classes is None:
            raise ValueError(
                "Cannot create a ClassificationOutput with empty arguments. "
                "At least one of `scores` and `classes` must be defined."
            )
        self._scores = scores
        self._classes = classes

    @property
    def scores(self) -> Any:
        """The scores, or None."""
        return self._scores

    @property
    def classes(self) -> Any:
        """The classes, or None."""
        return self._classes

    def as_signature_def(self, receiver_tensors: Mapping[str, Any]) -> Any:
        """Return the classify signature, whose one input is `inputs`."""
        examples = _single_string(receiver_tensors, "Classification")
        return tf.saved_model.classification_signature_def(
            examples, self._classes, self._scores
        )


class RegressionOutput(ExportOutput):
    """
    A value for each example, for Regress requests.

    Raises:
        ValueError: value is no floating tensor.
    """

    def __init__(self, value: Any) -> None:
        if not _is_tensor(value, "is_floating"):
            raise ValueError(
                f"Regression output value must be a float32 Tensor; got {value}"
            )
        self._value = value

    @property
    def value(self) -> Any:
        """The values."""
        return self._value

    def as_signature_def(self, receiver_tensors: Mapping[str, Any]) -> Any:
        """Return the regress signature, whose one input is `inputs`."""
        examples = _single_string(receiver_tensors, "Regression")
        return tf.saved_model.regression_signature_def(examples, self._value)


class PredictOutput(ExportOutput):
    """
    Named tensors for Predict requests; a single one is named `output`.

    Args:
        outputs: a tensor or a dict of them; a tuple as a key is joined with "/".

    Raises:
        ValueError: a key is no string, or a value no dense tensor.
    """

    def __init__(self, outputs: Any) -> None:
        self._outputs = _checked(outputs, "output", "Prediction")

    @property
    def outputs(self) -> dict[str, Any]:
        """The tensors by name."""
        return self._outputs

    def as_signature_def(self, receiver_tensors: Mapping[str, Any]) -> Any:
        """Return the predict signature, with the receiver's own names as inputs."""
        fed = {id(tensor) for tensor in (receiver_tensors or {}).values()}
        outputs = {  # sessions refuse what is both fed and fetched
            name: tf.identity(tensor) if id(tensor) in fed else tensor
            for name, tensor in self._outputs.items()
        }
        return tf.saved_model.predict_signature_def(receiver_tensors, outputs)


class _SupervisedOutput(ExportOutput):
    method_name: ClassVar[str]

    def __init__(
        self, loss: Any = None, predictions: Any = None, metrics: Any = None
    ) -> None:
        self._loss = _prefixed(loss, "loss")
        self._predictions = _prefixed(predictions, "predictions")
        self._metrics = None if metrics is None else _checked_metrics(metrics)

    @property
    def loss(self) -> dict[str, Any] | None:
        """The losses by the names of their outputs."""
        return self._loss

    @property
    def predictions(self) -> dict[str, Any] | None:
        """The predictions by the names of their outputs."""
        return self._predictions

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The metrics' values and updates by the names of their outputs."""
        return self._metrics

    def as_signature_def(self, receiver_tensors: Mapping[str, Any]) -> Any:
        """Return the signature, with the receiver's own names as inputs."""
        outputs = {
            **(self._loss or {}),
            **(self._predictions or {}),
            **(self._metrics or {}),
        }
        if not receiver_tensors:
            raise ValueError(f"{self.method_name} `inputs` cannot be None or empty.")
        info = tf.saved_model.utils.build_tensor_info
        return tf.saved_model.build_signature_def(
            {name: info(tensor) for name, tensor in receiver_tensors.items()},
            {name: info(tensor) for name, tensor in outputs.items()},
            self.method_name,
        )


class TrainOutput(_SupervisedOutput):
    """What a model exported in TRAIN mode has."""

    method_name = "tensorflow/supervised/training"


class EvalOutput(_SupervisedOutput):
    """What a model exported in EVAL mode has: loss, predictions and metrics."""

    method_name = "tensorflow/supervised/eval"


def with_default(export_outputs: Any, predictions: Any) -> Any:
    """
    Return *export_outputs* with a `serving_default` entry, as PREDICT mode needs it.

    Without export_outputs that is a PredictOutput of *predictions*.  One entry of
    another name is stored under both, in place.

    Raises:
        TypeError: export_outputs is no dict of ExportOutputs.
        ValueError: there are several entries, and none of them is the default.
    """
    if export_outputs is None:
        return {DEFAULT_KEY: PredictOutput(predictions)}
    if not isinstance(export_outputs, dict):
        raise TypeError(f"`export_outputs` must be dict, received: {export_outputs}.")
    if not all(isinstance(value, ExportOutput) for value in export_outputs.values()):
        raise TypeError(
            "Values in `export_outputs` must be ExportOutput objects, "
            f"received: {export_outputs}."
        )
    if len(export_outputs) == 1:
        (only,) = export_outputs.values()
        export_outputs[DEFAULT_KEY] = only
    if len(export_outputs) > 1 and DEFAULT_KEY not in export_outputs:
        raise ValueError(
            "Multiple `export_outputs` were provided, but none of them are specified "
            "as the default. Use`tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY` to "
            "specify a default."
        )
    return export_outputs


def _single_string(receiver_tensors: Mapping[str, Any], kind: str) -> Any:
    if len(receiver_tensors) == 1:
        (tensor,) = receiver_tensors.values()
        if tensor.dtype == tf.string:
            return tensor
    raise ValueError(
        f"{kind} signatures can only accept a single tensor input of type tf.string. "
        "Please check to make sure that you have structured the "
        "serving_input_receiver_fn so that it creates a single string placeholder. If "
        "your model function expects multiple inputs, then use "
        "`tf.io.parse_example()` to parse the string into multiple tensors.\n "
        f"Received: {receiver_tensors}"
    )


def _is_tensor(value: Any, kind: str = "") -> bool:
    return isinstance(value, tf.Tensor) and (not kind or getattr(value.dtype, kind))


def _checked(outputs: Any, single_name: str, what: str) -> dict[str, Any]:
    named = outputs if isinstance(outputs, dict) else {single_name: outputs}
    checked = {}
    for key, value in named.items():
        name = _checked_key(key, what)
        if not _is_tensor(value):
            raise ValueError(f"{what} output value must be a Tensor; got {value}.")
        checked[name] = value
    return checked


def _checked_key(key: Any, what: str) -> str:
    name = _SEPARATOR.join(key) if isinstance(key, tuple) else key
    if not isinstance(name, str):
        raise ValueError(f"{what} output key must be a string; got {name}.")
    return name


def _prefixed(outputs: Any, word: str) -> dict[str, Any] | None:
    if outputs is None:
        return None
    return {
        _with_prefix(key, word): value
        for key, value in _checked(outputs, word, word).items()
    }


def _with_prefix(key: str, word: str) -> str:
    return key if key.startswith(word) else f"{word}{_SEPARATOR}{key}"


def _checked_metrics(metrics: Any) -> dict[str, Any]:
    named = metrics if isinstance(metrics, dict) else {"metrics": metrics}
    outputs = {}
    for key, metric in named.items():
        value, update = _value_and_update(metric)
        name = _with_prefix(_checked_key(key, "metrics"), "metrics")
        if not _is_tensor(value):
            raise ValueError(f"{name} output value must be a Tensor; got {value}.")
        outputs[f"{name}/value"] = value
        outputs[f"{name}/update_op"] = _as_tensor(update, name)
    return outputs


def _value_and_update(metric: Any) -> tuple[Any, Any]:
    if isinstance(metric, tuple):
        value, update = metric
        return value, update
    return metric.result(), metric.updates[0]  # an object, as Keras has them


def _as_tensor(update: Any, name: str) -> Any:
    if isinstance(update, tf.Operation):  # signatures have tensors only
        with tf.control_dependencies([update]):
            return tf.constant([], name="metric_op_wrapper")
    if not _is_tensor(update):
        raise ValueError(
            f"{name} update_op must be a Tensor or Operation; got {update}."
        )
    return update
