"""
The road from a model to a published version: trace, write, try, publish.

Nothing is seen of a version before a process of its own has opened it as a server
does, and has answered each sample as the model itself did.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import text_format

from servable.apis import saved_model_pb2, session_bundle_config_pb2
from servable.config import batching_parameters
from servable.errors import FailedPrecondition, InvalidArgument, ServingError
from servable.export._tensorflow import tf2
from servable.export.answers import Arrays, Tolerance, arrays_of, differences
from servable.export.publishing import check_numbers, staged
from servable.export.reasons import reason_of
from servable.export.replay import replay
from servable.export.requests import Log, request_log, request_of, write_warmup
from servable.export.signatures import (
    Classify,
    Predict,
    Regress,
    Served,
    served_classify,
    served_predict,
    served_regress,
)
from servable.export.sources import Source, by_name, source_of
from servable.export.steps import begin
from servable.platforms.unrestored_variables import read_object_graph_model

_SERVE: Final = ("serve",)
_BATCHING_FILE: Final = "batching_params.pbtxt"
_PYTHON: Final = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def export(
    model: Any,
    base_path: str | os.PathLike[str],
    *,
    signatures: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    batching: Mapping[str, Any] | None = None,
    assets_extra: Mapping[str, str | os.PathLike[str]] | None = None,
    version: int | None = None,
    keep: int | None = None,
    check: bool = True,
    tolerance: Tolerance | None = None,
) -> Path:
    """
    Export *model* as the next version in *base_path*; return its directory.  Blocks.

    Args:
        model: a Keras model, a tf.Module, a tf.function, or a dict of them by
            signature name.
        base_path: the directory of the model's versions; made if need be.
        signatures: by name, Predict, Classify, Regress or a tf.function; None for
            those that the model has by itself.
        samples: by signature name, what to ask: dicts of inputs for Predict, lists
            of examples for the others.  They become the model's warm-up requests,
            and are asked before it is published.
        batching: fields of the model's own BatchingParameters.
        assets_extra: files to go along, by where they go in `assets.extra`.
        version: the number; None for the next one.
        keep: how many versions there may be then; None for all.
        check: open the version in a clean process, and ask it the samples.
        tolerance: how far its answers may be from the model's.

    Raises:
        InvalidArgument: an argument does not fit, or the model itself fails a sample.
        AlreadyExists: there is a version of that number.
        FailedPrecondition: the version cannot be written or served, or answers
            otherwise than the model.  Nothing is published.
        ServingError: a file cannot be written.
    """
    check_numbers(version, keep)
    source = source_of(model)
    given = signatures if signatures is not None else source.default_signatures()
    if not given:
        raise InvalidArgument("a model without signatures cannot be asked anything")
    served = [_served(name, given[name], source) for name in given]
    logs, expected = _ask(served, samples or {})
    with staged(base_path) as staging:
        _write(source, served, staging.path)
        if logs:
            write_warmup(staging.path, logs)
        if batching is not None:
            write_batching_parameters(staging.path, batching)
        copy_extra(staging.path, assets_extra or {})
        if check:
            check_answers(staging.path, logs, expected, tolerance or Tolerance())
        return staging.publish(version=version, keep=keep)


def write(model: Any, path: Path) -> None:
    """
    Write *model*, with the signatures it has by itself, as a SavedModel at *path*.

    Raises:
        InvalidArgument: it is nothing that can be exported.
        FailedPrecondition: it cannot be written.
    """
    source = source_of(model)
    given = source.default_signatures()
    _write(source, [_served(name, given[name], source) for name in given], path)


def _write(source: Source, served: Sequence[Served], path: Path) -> None:
    begin("writing the model")
    try:
        source.write(path, served)
    except ServingError:
        raise
    except Exception as exc:  # whatever the model raises when it is traced
        raise FailedPrecondition(
            f"the model cannot be written: {reason_of(exc)}"
        ) from exc
    set_method_names(path, {each.name: each.method_name for each in served})
    check_class_names(path, served)


def _served(name: str, signature: Any, source: Source) -> Served:
    if callable(signature):
        signature = Predict(signature)
    match signature:
        case Predict(function, inputs, preprocess):
            known = inputs or source.inputs_of(function)
            call = by_name(function) if function is not None else source.call
            return served_predict(name, Predict(function, known, preprocess), call)
        case Classify(function=function):
            return served_classify(name, signature, function or source.call_features)
        case Regress(function=function):
            return served_regress(name, signature, function or source.call_features)
        case _:
            raise InvalidArgument(
                f"signature {name!r} must be Predict, Classify, Regress or a function, "
                f"and is {type(signature).__name__}"
            )


def _ask(
    served: Sequence[Served], samples: Mapping[str, Any]
) -> tuple[list[Log], list[Arrays]]:
    """Return the samples as requests, and what the model itself answers to each."""
    by_name = {signature.name: signature for signature in served}
    begin("asking the model")
    logs, answers = [], []
    for name, given in samples.items():
        if name not in by_name:
            raise InvalidArgument(f"there are samples for {name!r}, and no signature")
        signature = by_name[name]
        for sample in [given] if isinstance(given, Mapping) else given:
            dtypes = {spec.name: spec.dtype.name for spec in signature.specs}
            shapes = {
                spec.name: None if spec.shape.rank is None else spec.shape.as_list()
                for spec in signature.specs
            }
            log = request_log(name, signature.method_name, sample, dtypes, shapes)
            logs.append(log)
            try:
                answers.append(_answer(signature, log, sample))
            except ServingError:
                raise
            except Exception as exc:  # whatever the model raises
                raise InvalidArgument(
                    f"the model itself fails a sample for signature {name!r}: "
                    f"{reason_of(exc)}"
                ) from exc
    return logs, answers


def _answer(signature: Served, log: Log, sample: Any) -> Arrays:
    if signature.method_name == Predict.method_name:
        missing = [spec.name for spec in signature.specs if spec.name not in sample]
        if missing:
            raise InvalidArgument(
                f"a sample for signature {signature.name!r} lacks {missing}"
            )
        fed = [
            tf2.convert_to_tensor(sample[spec.name], spec.dtype)
            for spec in signature.specs
        ]
    else:
        examples = request_of(log).input.example_list.examples
        fed = [tf2.constant([example.SerializeToString() for example in examples])]
    # Not called as it is: TensorFlow warns of one that is traced for every export.
    function = tf2.function(signature.function).get_concrete_function(*signature.specs)
    outputs = {name: np.asarray(t) for name, t in function(*fed).items()}
    if signature.method_name == Regress.method_name:
        return {"outputs": outputs["outputs"].reshape(-1)}
    if signature.method_name == Classify.method_name and "classes" not in outputs:
        outputs["classes"] = np.full(outputs["scores"].shape, "")
    return outputs


def set_method_names(path: Path, method_names: Mapping[str, str]) -> None:
    """Write into the SavedModel at *path* which requests its signatures are for."""
    model = _saved_model(path)
    for meta_graph in model.meta_graphs:
        for name, method_name in method_names.items():
            if name in meta_graph.signature_def:
                meta_graph.signature_def[name].method_name = method_name
    (path / "saved_model.pb").write_bytes(model.SerializeToString())


def check_class_names(path: Path, served: Sequence[Served]) -> None:
    """
    Check that the SavedModel at *path* has a name for each class.

    Raises:
        InvalidArgument: it has not.
    """
    counted = [each for each in served if each.class_count is not None]
    for meta_graph in _saved_model(path).meta_graphs if counted else ():
        for each in counted:
            shape = meta_graph.signature_def[each.name].outputs["scores"].tensor_shape
            classes = shape.dim[-1].size if shape.dim else -1
            if classes not in (-1, each.class_count):
                raise InvalidArgument(
                    f"signature {each.name!r} has scores for {classes} classes, and "
                    f"{each.class_count} names"
                )


def _saved_model(path: Path) -> Any:
    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())


def write_batching_parameters(path: Path, fields: Mapping[str, Any]) -> None:
    """
    Write the BatchingParameters of the model at *path*, from their *fields*.

    Raises:
        InvalidArgument: there is no such field, or a value is out of range.
    """
    message = session_bundle_config_pb2.BatchingParameters()
    for name, value in fields.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            raise InvalidArgument(f"BatchingParameters have no field {name!r}")
        try:
            if message.DESCRIPTOR.fields_by_name[name].message_type is not None:
                getattr(message, name).value = value
            elif isinstance(value, list | tuple):
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        except (TypeError, ValueError) as exc:
            raise InvalidArgument(f"BatchingParameters, {name}: {exc}") from None
    batching_parameters.from_proto(message).check_model()
    (path / _BATCHING_FILE).write_text(text_format.MessageToString(message))


def copy_extra(path: Path, extra: Mapping[str, str | os.PathLike[str]]) -> None:
    """
    Copy files into `assets.extra` of the model at *path*.

    Raises:
        InvalidArgument: there is no such file, or it would go elsewhere.
    """
    folder = path / "assets.extra"
    for destination, file in extra.items():
        target = Path(os.path.normpath(folder / destination))
        if folder not in target.parents:
            raise InvalidArgument(
                f"assets_extra names {destination!r}, which is outside"
            )
        if not Path(file).is_file():
            raise InvalidArgument(f"assets_extra: there is no file {os.fspath(file)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def check_answers(
    path: Path, logs: Sequence[Log], expected: Sequence[Arrays], tolerance: Tolerance
) -> None:
    """
    Check, in a clean process, that the SavedModel at *path* answers as *expected*.

    Raises:
        FailedPrecondition: it does not, or cannot be served.
    """
    model = read_object_graph_model(str(path), _SERVE)
    if model is not None and model.unrestored_variables:
        raise FailedPrecondition(
            "the model would not be served at full speed: a session does not restore "
            f"{model.unrestored_variables[0]}; export its Keras models themselves, and "
            "not what holds them"
        )
    if python := sorted(_python_calls(_saved_model(path))):
        raise FailedPrecondition(
            f"the exported model cannot be served: it calls Python, by {python[0]}, "
            "and there is none where it will run"
        )
    try:
        begin("trying the model in another process")
        answers = replay(path, logs)
    except ServingError as error:
        raise FailedPrecondition(
            f"the exported model cannot be served: {error.message}"
        ) from error
    for log, answer, wanted in zip(logs, answers, expected, strict=True):
        name = request_of(log).model_spec.signature_name
        if answer.error is not None:
            raise FailedPrecondition(
                f"the exported model fails a sample for signature {name!r}: "
                f"{answer.error.message}"
            )
        unlike = list(differences(wanted, arrays_of(log, answer.response), tolerance))
        if unlike:
            raise FailedPrecondition(
                "the exported model answers otherwise than the model does, for "
                f"signature {name!r}: {'; '.join(unlike)}"
            )


def _python_calls(model: Any) -> set[str]:
    """Return which operations that call Python can be run in *model*."""
    found = set()
    for meta_graph in model.meta_graphs:
        library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        waiting = [meta_graph.graph_def.node]
        seen: set[str] = set()
        while waiting:
            for node in waiting.pop():
                if node.op in _PYTHON:
                    found.add(node.op)
                for name in {node.op, *_functions(node)} & library.keys() - seen:
                    seen.add(name)
                    waiting.append(library[name].node_def)
    return found


def _functions(node: Any) -> set[str]:
    """Return the functions that *node* may call, as its attributes name them."""
    return {
        function.name
        for value in node.attr.values()
        for function in (value.func, *value.list.func)
    }
