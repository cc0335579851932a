"""
What can be exported: Keras models, tf.Modules, functions; and how each is written.

A source says which signatures it has by itself, how it is called, and writes traced
functions as a SavedModel whose variables any server restores.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from servable.errors import InvalidArgument
from servable.export._tensorflow import tf2
from servable.export.signatures import DEFAULT, Predict, Served


class Source(Protocol):
    """Something that can be exported."""

    def default_signatures(self) -> Mapping[str, Predict]:
        """Return the signatures that it has by itself."""

    def inputs_of(
        self, function: Callable[..., Any] | None
    ) -> Mapping[str, Any] | None:
        """Return the inputs of *function* (None: of the model) if they are known."""

    def call(self, *args: Any, **inputs: Any) -> Any:
        """Run the model, with inputs by name or as they are."""

    def call_features(self, features: Mapping[str, Any]) -> Any:
        """Run the model on parsed features."""

    def write(self, path: Path, served: Sequence[Served]) -> None:
        """Write a SavedModel."""


def source_of(model: Any) -> Source:
    """
    Return *model* as a Source.

    Raises:
        InvalidArgument: it is nothing that can be exported.
    """
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model):
        return KerasSource(model)
    if isinstance(model, tf2.Module) or callable(model):
        return ModuleSource(model)
    if isinstance(model, Mapping) and all(map(callable, model.values())):
        return ModuleSource(None, model)
    raise InvalidArgument(
        "a Keras model, a tf.Module, a function or a dict of functions can be "
        f"exported, and this is {type(model).__name__}"
    )


class KerasSource:
    """A model of Keras 3."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def default_signatures(self) -> Mapping[str, Predict]:
        """See Source."""
        return {DEFAULT: Predict()}

    def inputs_of(
        self, function: Callable[..., Any] | None
    ) -> Mapping[str, Any] | None:
        """See Source."""
        if function is not None:
            return function_inputs(function)
        if not getattr(self._model, "inputs", None):
            raise InvalidArgument(
                f"model {self._model.name!r} does not know its inputs yet: call it "
                "once, or give Predict(inputs=…)"
            )
        return {
            tensor.name: tf2.TensorSpec(tensor.shape, tensor.dtype)
            for tensor in self._model.inputs
        }

    def call(self, *args: Any, **inputs: Any) -> Any:
        """See Source."""
        if not inputs:
            return self._model(*args, training=False)
        return self._model(self._arranged(inputs), training=False)

    def call_features(self, features: Mapping[str, Any]) -> Any:
        """See Source."""
        return self._model(self._arranged(features), training=False)

    def _arranged(self, inputs: Mapping[str, Any]) -> Any:
        """Return *inputs* in the form that the model takes them in."""
        form = getattr(self._model, "_inputs_struct", None)
        if isinstance(form, Mapping):
            return dict(inputs)
        if len(inputs) == 1:
            (only,) = inputs.values()
            return [only] if isinstance(form, list) else only
        known = [tensor.name for tensor in self._model.inputs]
        if set(known) == set(inputs):
            return [inputs[name] for name in known]
        return dict(inputs)

    def write(self, path: Path, served: Sequence[Served]) -> None:
        """Write what a session restores; tf.saved_model.save would not."""
        import keras  # noqa: PLC0415 - imported already, or there were no such model

        archive = keras.export.ExportArchive()
        archive.track(self._model)
        for number, signature in enumerate(served):
            for resource in signature.resources:
                setattr(archive._tf_trackable, f"resource_{number}", resource)  # noqa: SLF001
            archive.add_endpoint(
                signature.name, signature.function, list(signature.specs)
            )
        archive.write_out(str(path), verbose=False)


class ModuleSource:
    """A tf.Module, a function, or functions by the names of their signatures."""

    def __init__(
        self, model: Any, functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self._model = model
        self._functions = functions

    def default_signatures(self) -> Mapping[str, Predict]:
        """See Source."""
        if self._functions is not None:
            return {name: Predict(f) for name, f in self._functions.items()}
        return {DEFAULT: Predict()}

    def inputs_of(
        self, function: Callable[..., Any] | None
    ) -> Mapping[str, Any] | None:
        """See Source."""
        return function_inputs(function or self._model)

    def call(self, *args: Any, **inputs: Any) -> Any:
        """See Source."""
        if not callable(self._model):
            raise InvalidArgument(
                f"{type(self._model).__name__} cannot be called: give its signatures"
            )
        return by_name(self._model)(*args, **inputs)

    def call_features(self, features: Mapping[str, Any]) -> Any:
        """See Source."""
        return self.call(**features)

    def write(self, path: Path, served: Sequence[Served]) -> None:
        """Write with tf.saved_model.save."""
        root = tf2.Module()
        root.model = self._model
        root.resources = [signature.resources for signature in served]
        root.functions = list((self._functions or {}).values())
        traced = {
            signature.name: tf2.function(signature.function).get_concrete_function(
                *signature.specs
            )
            for signature in served
        }
        # What a function has closed over is nowhere else to be found.
        root.variables_of_functions = [
            variable for function in traced.values() for variable in function.variables
        ]
        tf2.saved_model.save(root, str(path), signatures=traced)


def function_inputs(function: Any) -> Mapping[str, Any] | None:
    """
    Return what a tf.function has for its input_signature, by argument name.

    If that is one dict, it has names itself.
    """
    function = _traced(function)
    signature = getattr(function, "input_signature", None)
    if signature is None:
        return None
    if (features := _only_dict(signature)) is not None:
        return features
    python_function = getattr(function, "python_function", function)
    names = [
        name
        for name, parameter in inspect.signature(python_function).parameters.items()
        if name != "self"
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    specs = tf2.nest.flatten(signature)
    if len(specs) > len(names):
        raise InvalidArgument(
            f"{python_function.__name__} has {len(specs)} tensors in its input "
            f"signature and {len(names)} arguments: give Predict(inputs=…)"
        )
    return dict(zip(names, specs, strict=False))


def by_name(function: Any) -> Callable[..., Any]:
    """Return *function* as one that takes its inputs by name, if it wants a dict."""
    if _only_dict(getattr(_traced(function), "input_signature", None)) is None:
        return function  # type: ignore[no-any-return]

    def call(*args: Any, **inputs: Any) -> Any:
        return function(*args) if args else function(inputs)

    return call


def _traced(function: Any) -> Any:
    """Return the function that TensorFlow traces when *function* is called."""
    is_module = isinstance(function, tf2.Module) and callable(function)
    return function.__call__ if is_module else function


def _only_dict(signature: Any) -> dict[str, Any] | None:
    """Return the specs in *signature* by name, if all it has is a dict of them."""
    if isinstance(signature, list | tuple) and len(signature) == 1:
        (only,) = signature
        if isinstance(only, Mapping) and not any(
            map(tf2.nest.is_nested, only.values())
        ):
            return dict(only)
    return None
