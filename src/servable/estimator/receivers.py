"""
What an exported model receives, and the functions that scripts make it with.

A receiver maps what a client sends (receiver tensors) to what the model function
takes (features).  The classes only check and name; nothing here makes a signature.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from servable.export._tensorflow import tf

_SINGLE_FEATURE: Final = "feature"
_SINGLE_RECEIVER: Final = "input"
_SINGLE_LABEL: Final = "label"
_EXAMPLES: Final = "examples"


class _Fields(NamedTuple):
    features: Any
    receiver_tensors: dict[str, Any]
    receiver_tensors_alternatives: dict[str, dict[str, Any]] | None


class ServingInputReceiver(_Fields):
    """
    Features for the model function, and the tensors that requests are fed to.

    Args:
        features: a tensor, or a dict of tensors by str or int; a single one becomes
            `{"feature": features}`.
        receiver_tensors: a tensor, or a dict of tensors by name; a single one becomes
            `{"input": receiver_tensors}`.
        receiver_tensors_alternatives: by name, other receiver tensors that requests
            may be fed to instead; each makes signatures of its own.  Single tensors
            in it are replaced by dicts, in place.

    Raises:
        ValueError: something is missing, or is no tensor, or a key is of a wrong type.
    """

    __slots__ = ()

    def __new__(
        cls,
        features: Any,
        receiver_tensors: Any,
        receiver_tensors_alternatives: Any = None,
    ) -> "ServingInputReceiver":
        return super().__new__(
            cls,
            _features(features),
            _receiver_tensors(receiver_tensors),
            _alternatives(receiver_tensors_alternatives),
        )


class TensorServingInputReceiver(_Fields):
    """
    A ServingInputReceiver whose features are one tensor, given to model_fn as it is.

    Raises:
        ValueError: as ServingInputReceiver; and features is a dict.
    """

    __slots__ = ()

    def __new__(
        cls,
        features: Any,
        receiver_tensors: Any,
        receiver_tensors_alternatives: Any = None,
    ) -> "TensorServingInputReceiver":
        if features is None:
            raise ValueError("features must be defined.")
        _check_tensor(features, "feature")
        return super().__new__(
            cls,
            features,
            _receiver_tensors(receiver_tensors),
            _alternatives(receiver_tensors_alternatives),
        )


class _SupervisedFields(NamedTuple):
    features: Any
    labels: Any
    receiver_tensors: dict[str, Any]


class SupervisedInputReceiver(_SupervisedFields):
    """
    Features and labels for a model exported in TRAIN or EVAL mode.

    Single features and labels stay single.

    Raises:
        ValueError: as ServingInputReceiver.
    """

    __slots__ = ()

    def __new__(
        cls, features: Any, labels: Any, receiver_tensors: Any
    ) -> "SupervisedInputReceiver":
        for value, what in ((features, "feature"), (labels, "label")):
            if value is None:
                raise ValueError(f"{what}s must be defined.")
            for name, tensor in _named(value, what).items():
                _check_key(name, what, str | int)
                _check_tensor(tensor, f"{what} {name}")
        return super().__new__(
            cls, features, labels, _receiver_tensors(receiver_tensors)
        )


def build_raw_serving_input_receiver_fn(
    features: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """
    Return a function that makes placeholders like *features*, and serves them raw.

    Args:
        features: tensors whose types, shapes and names the placeholders take, but
            for the first dimension.
        default_batch_size: that first dimension; None for any.
    """

    def serving_input_receiver_fn() -> ServingInputReceiver:
        made = _placeholders_like(features, default_batch_size)
        return ServingInputReceiver(made, made)

    return serving_input_receiver_fn


def build_parsing_serving_input_receiver_fn(
    feature_spec: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """
    Return a function that takes serialized tf.Example records and parses them.

    Args:
        feature_spec: what `tf.parse_example` is to find, by name.
        default_batch_size: number of records in a request; None for any.
    """

    def serving_input_receiver_fn() -> ServingInputReceiver:
        examples = tf.placeholder(
            tf.string, [default_batch_size], name="input_example_tensor"
        )
        features = tf.parse_example(examples, feature_spec)
        return ServingInputReceiver(features, {_EXAMPLES: examples})

    return serving_input_receiver_fn


def build_raw_supervised_input_receiver_fn(
    features: Any, labels: Any, default_batch_size: int | None = None
) -> Callable[[], SupervisedInputReceiver]:
    """
    Return a function that makes placeholders like *features* and *labels*.

    Single tensors are received as `input` and `label`.

    Raises:
        ValueError: a feature and a label have the same name.
    """
    named_features = _named(features, _SINGLE_RECEIVER)
    named_labels = _named(labels, _SINGLE_LABEL)
    overlap = set(named_features) & set(named_labels)
    if overlap:
        raise ValueError(
            "Features and labels must have distinct keys. "
            f"Found overlapping keys: {overlap}"
        )

    def supervised_input_receiver_fn() -> SupervisedInputReceiver:
        made_features = _placeholders_like(named_features, default_batch_size)
        made_labels = _placeholders_like(named_labels, default_batch_size)
        receiver_tensors = {**made_features, **made_labels}
        if not isinstance(features, dict):
            made_features = made_features[_SINGLE_RECEIVER]
        if not isinstance(labels, dict):
            made_labels = made_labels[_SINGLE_LABEL]
        return SupervisedInputReceiver(made_features, made_labels, receiver_tensors)

    return supervised_input_receiver_fn


def named_receivers(tensors: Any) -> Any:
    """Return receiver tensors by name, given so or as a single one."""
    return _named(tensors, _SINGLE_RECEIVER)


def _placeholders_like(tensors: Mapping[str, Any], batch_size: int | None) -> Any:
    return {key: _placeholder_like(t, batch_size) for key, t in tensors.items()}


def _placeholder_like(tensor: Any, batch_size: int | None) -> Any:
    shape = tensor.get_shape()
    if shape.rank is not None:
        shape = tf.TensorShape([batch_size]).concatenate(shape[1:])
    try:
        name = tensor.op.name
    except AttributeError:  # eager tensors have none
        name = None
    return tf.placeholder(tensor.dtype, shape, name=name)


def _features(features: Any) -> Any:
    if features is None:
        raise ValueError("features must be defined.")
    named = _named(features, _SINGLE_FEATURE)
    for name, tensor in named.items():
        _check_key(name, "feature", str | int)
        _check_tensor(tensor, f"feature {name}")
    return named


def _receiver_tensors(tensors: Any, what: str = "receiver_tensor") -> Any:
    if tensors is None:
        raise ValueError(f"{what}s must be defined.")
    named = named_receivers(tensors)
    for name, tensor in named.items():
        _check_key(name, what, str)
        _check_tensor(tensor, f"{what} {name}")
    return named


def _alternatives(alternatives: Any) -> Any:
    if alternatives is None:
        return None
    if not isinstance(alternatives, dict):
        raise ValueError(
            f"receiver_tensors_alternatives must be a dict: {alternatives}."
        )
    for name, tensors in alternatives.items():
        alternatives[name] = _receiver_tensors(tensors, "receiver_tensors_alternative")
    return alternatives


def _named(value: Any, single_name: str) -> Any:
    return value if isinstance(value, dict) else {single_name: value}


def _check_key(key: Any, what: str, types: Any) -> None:
    if not isinstance(key, types):
        allowed = "strings" if types is str else "strings or ints"
        raise ValueError(f"{what} keys must be {allowed}: {key}.")


def _check_tensor(value: Any, what: str) -> None:
    if isinstance(value, tf.Tensor | tf.SparseTensor | tf.RaggedTensor):
        return
    if hasattr(value, "tensor"):  # a labelled tensor, which converts to a plain one
        with contextlib.suppress(TypeError, ValueError):
            tf.convert_to_tensor(value)
            return
    raise ValueError(f"{what} must be a Tensor, SparseTensor, or RaggedTensor.")
