"""What a receiver accepts, how it names it, and what it says of the rest."""

import re
from collections.abc import Callable
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.estimator import experimental, export  # noqa: E402

pytestmark = pytest.mark.tensorflow
Serving, Single = export.ServingInputReceiver, export.TensorServingInputReceiver


def floats() -> Any:
    return tf.placeholder(tf.float32, [None])


def test_single_tensors_get_names() -> None:
    received = Serving(floats(), floats(), {"other": floats()})

    assert list(received.features) == ["feature"]
    assert list(received.receiver_tensors) == ["input"]
    alternatives = received.receiver_tensors_alternatives or {}
    assert list(alternatives["other"]) == ["input"]


def test_dicts_are_kept_and_not_copied() -> None:
    features, tensors = {"a": floats()}, {"b": floats()}

    received = Serving(features, tensors)

    assert received.features is features
    assert received.receiver_tensors is tensors


def test_a_tensor_receiver_hands_its_tensor_on_as_it_is() -> None:
    features = floats()

    assert Single(features, floats()).features is features


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda x: Serving(None, x), "features must be defined.", id="no features"
        ),
        pytest.param(
            lambda x: Serving(x, None),
            "receiver_tensors must be defined.",
            id="nothing to receive",
        ),
        pytest.param(
            lambda x: Serving({1.5: x}, x),
            "feature keys must be strings or ints: 1.5.",
            id="a feature named by a fraction",
        ),
        pytest.param(
            lambda x: Serving(x, {1: x}),
            "receiver_tensor keys must be strings: 1.",
            id="a receiver tensor named by a number",
        ),
        pytest.param(
            lambda x: Serving({"a": 3.0}, x),
            "feature a must be a Tensor, SparseTensor, or RaggedTensor.",
            id="a feature that is a number",
        ),
        pytest.param(
            lambda x: Serving(x, "b"),
            "receiver_tensor input must be a Tensor, SparseTensor, or RaggedTensor.",
            id="a receiver tensor that is text",
        ),
        pytest.param(
            lambda x: Serving(x, x, [x]),
            "receiver_tensors_alternatives must be a dict: [",
            id="alternatives in a list",
        ),
        pytest.param(
            lambda x: Serving(x, x, {"a": None}),
            "receiver_tensors_alternatives must be defined.",
            id="an alternative that is nothing",
        ),
        pytest.param(
            lambda x: Single({"a": x}, x),
            "feature must be a Tensor, SparseTensor, or RaggedTensor.",
            id="several features where one is to be handed on",
        ),
    ],
)
def test_what_cannot_be_received_is_named(
    make: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(floats())


@pytest.mark.parametrize(
    ("shape", "batch_size", "expected"),
    [
        pytest.param([7, 4], None, [None, 4], id="the first dimension becomes any"),
        pytest.param([7, 4], 3, [3, 4], id="or the batch size"),
        pytest.param([], None, [None], id="a scalar becomes a vector"),
        pytest.param(None, 3, None, id="an unknown rank stays unknown"),
    ],
)
def test_raw_placeholders_are_like_the_features(
    shape: Any, batch_size: int | None, expected: Any
) -> None:
    features = {"a": tf.placeholder(tf.int64, shape, name="named")}
    receive = export.build_raw_serving_input_receiver_fn(features, batch_size)

    with tf.Graph().as_default():
        received = receive()

    made = received.features["a"]
    assert made is received.receiver_tensors["a"]
    assert (made.name, made.dtype) == ("named:0", tf.int64)
    assert made.shape.rank == (None if expected is None else len(expected))
    assert expected is None or made.shape.as_list() == expected


def test_examples_are_parsed_by_their_spec() -> None:
    spec = {
        "fixed": tf.FixedLenFeature([2], tf.float32),
        "any": tf.VarLenFeature(tf.int64),
    }

    received = export.build_parsing_serving_input_receiver_fn(spec)()

    assert received.receiver_tensors["examples"].name == "input_example_tensor:0"
    assert received.features["fixed"].shape.as_list() == [None, 2]
    assert isinstance(received.features["any"], tf.SparseTensor)


def test_labels_are_received_beside_single_features() -> None:
    build = experimental.build_raw_supervised_input_receiver_fn

    received = build(floats(), floats())()

    assert sorted(received.receiver_tensors) == ["input", "label"]
    assert received.labels is received.receiver_tensors["label"]


def test_a_feature_and_a_label_of_one_name_are_refused() -> None:
    build = experimental.build_raw_supervised_input_receiver_fn

    with pytest.raises(ValueError, match=r"overlapping keys: \{'a'\}"):
        build({"a": floats()}, {"a": floats()})
