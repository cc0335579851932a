"""
Signatures of exported models: what they take, what they run, what they answer.

Each kind builds one traced function whose inputs and outputs have the names that the
wire contract wants.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from servable.errors import InvalidArgument
from servable.export._tensorflow import tf, tf2
from servable.export.requests import CLASSIFY, PREDICT, REGRESS

DEFAULT: Final = "serving_default"
_EXAMPLES: Final = "inputs"


@dataclass(frozen=True, slots=True)
class Predict:
    """
    Tensors in, tensors out.

    Attributes:
        function: called with the inputs by name, or with what *preprocess* returns;
            None for the model itself.
        inputs: a TensorSpec for each input; None for those of the function or model.
        preprocess: called with the inputs in their order; returns the function's
            argument, or a dict or tuple of several.
    """

    function: Callable[..., Any] | None = None
    inputs: Mapping[str, Any] | None = None
    preprocess: Callable[..., Any] | None = None
    method_name: ClassVar[str] = PREDICT


@dataclass(frozen=True, slots=True)
class Classify:
    """
    Examples in, classes and scores out.

    Attributes:
        features: how examples are parsed, by the names of their features.
        function: from the dict of features to scores [batch, classes]; None for the
            model itself, called with the dict, or with the one feature if it is one.
        classes: names of the classes, or a file with one in a line, which goes along
            as an asset; None for scores alone.
    """

    features: Mapping[str, Any]
    function: Callable[..., Any] | None = None
    classes: Sequence[str] | str | os.PathLike[str] | None = None
    method_name: ClassVar[str] = CLASSIFY


@dataclass(frozen=True, slots=True)
class Regress:
    """
    Examples in, a number for each out.

    Attributes:
        features: how examples are parsed, by the names of their features.
        function: from the dict of features to values [batch] or [batch, 1]; None as
            in Classify.
    """

    features: Mapping[str, Any]
    function: Callable[..., Any] | None = None
    method_name: ClassVar[str] = REGRESS


Signature = Predict | Classify | Regress


@dataclass(frozen=True, slots=True)
class Served:
    """
    A signature as it is written.

    Attributes:
        name, method_name: its own.
        specs: its inputs, in the order that *function* takes them.
        function: from tensors to a dict of them.
        resources: what it needs that has to be tracked: tables.
        class_count: how many classes have names, None if none have.
    """

    name: str
    method_name: str
    specs: Sequence[Any]
    function: Callable[..., Mapping[str, Any]]
    resources: tuple[Any, ...] = ()
    class_count: int | None = None


def served_predict(name: str, signature: Predict, call: Callable[..., Any]) -> Served:
    """
    Return a predict signature; *call* runs its function or model.

    Raises:
        InvalidArgument: its inputs are not known.
    """
    if not signature.inputs:
        raise InvalidArgument(
            f"signature {name!r} does not say what its inputs are: give "
            "Predict(inputs={name: tf.TensorSpec(shape, dtype)})"
        )
    specs = [
        tf2.TensorSpec(spec.shape, spec.dtype, name=key)
        for key, spec in signature.inputs.items()
    ]
    names = list(signature.inputs)

    def function(*tensors: Any) -> Mapping[str, Any]:
        if signature.preprocess is None:
            return _named(call(**dict(zip(names, tensors, strict=True))))
        made = signature.preprocess(*tensors)
        if isinstance(made, Mapping):
            return _named(call(**made))
        return _named(call(*made) if isinstance(made, tuple) else call(made))

    return Served(name, PREDICT, specs, function)


def served_classify(name: str, signature: Classify, call: Callable[..., Any]) -> Served:
    """
    Return a classify signature; *call* gets the dict of features.

    Raises:
        InvalidArgument: the file of class names cannot be read.
    """
    names_of, resources, count = _class_names(name, signature.classes)

    def function(examples: Any) -> Mapping[str, Any]:
        features = tf2.io.parse_example(examples, dict(signature.features))
        scores = tf2.cast(call(features), tf2.float32)
        if scores.shape.rank == 1:
            scores = tf2.expand_dims(scores, -1)
        outputs = {"scores": scores}
        if names_of is not None:
            outputs["classes"] = names_of(scores)
        return outputs

    return Served(name, CLASSIFY, [_examples_spec()], function, resources, count)


def served_regress(name: str, signature: Regress, call: Callable[..., Any]) -> Served:
    """Return a regress signature; *call* gets the dict of features."""

    def function(examples: Any) -> Mapping[str, Any]:
        features = tf2.io.parse_example(examples, dict(signature.features))
        return {"outputs": tf2.cast(call(features), tf2.float32)}

    return Served(name, REGRESS, [_examples_spec()], function)


def _examples_spec() -> Any:
    return tf2.TensorSpec([None], tf2.string, name=_EXAMPLES)


def _class_names(name: str, classes: Any) -> tuple[Any, tuple[Any, ...], int | None]:
    if classes is None:
        return None, (), None
    if not isinstance(classes, str | os.PathLike):
        texts = list(classes)
        names = tf2.constant(texts, tf2.string)
        return lambda scores: _tiled(names, scores), (), len(texts)
    if not Path(classes).is_file():
        raise InvalidArgument(
            f"signature {name!r}: there is no file {os.fspath(classes)} of class names"
        )
    # A table, and no list, so that the file goes along and can be looked at.
    table = tf2.lookup.StaticHashTable(
        tf2.lookup.TextFileInitializer(
            os.fspath(classes),
            tf2.int64,
            tf2.lookup.TextFileIndex.LINE_NUMBER,
            tf2.string,
            tf2.lookup.TextFileIndex.WHOLE_LINE,
        ),
        "",
    )

    def names_of(scores: Any) -> Any:
        ids = tf2.range(tf2.shape(scores, tf2.int64)[1])
        return _tiled(table.lookup(ids), scores)

    lines = Path(classes).read_bytes().rstrip().splitlines()
    return names_of, (table,), len(lines)


def _tiled(names: Any, scores: Any) -> Any:
    return tf2.tile(names[tf2.newaxis], [tf2.shape(scores)[0], 1])


def _named(outputs: Any) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): outputs[name] for name in outputs}
    if isinstance(outputs, list | tuple):
        return {f"output_{at}": tensor for at, tensor in enumerate(outputs)}
    return {"output_0": outputs}


def build_tensor_info(tensor: Any) -> Any:
    """
    Return the TensorInfo of a tensor or sparse tensor of a version 1 graph.

    Raises:
        RuntimeError: it is called outside of a graph.
    """
    return tf.saved_model.utils.build_tensor_info(tensor)
