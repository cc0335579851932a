"""How each operation looks over REST: method, path and JSON, and the way back."""

import base64
import functools
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from servable.apis import (
    POOL,
    example_pb2,
    feature_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
)
from servable.client import dtypes
from servable.client.dtypes import STRING, DType
from servable.client.grpc_codec import version_statuses
from servable.client.operations import (
    Classification,
    Classify,
    Metadata,
    ModelRef,
    MultiInference,
    Operation,
    Outputs,
    Predict,
    Regress,
    ReloadConfig,
    Status,
)
from servable.client.signatures import (
    ModelMetadata,
    TensorSpec,
    signatures_from,
)
from servable.client.tensors import read_only
from servable.errors import Code, Internal, ServingError, Unimplemented, from_code

# The types that the server reads from JSON and writes to it.
_JSON_DTYPES: Final = frozenset(
    (
        *("float32", "float64", "bool", "string"),
        *("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"),
    )
)

_FLOAT32: Final = dtypes.parse("float32")
_BLOCK: Final = 1 << 15  # values that are written at once: some milliseconds
_FEW: Final = 1 << 10  # values, up to which it is not worth a template

# More than one code has the same HTTP status; the one that is meant most stands here.
_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
_OK: Final = 200

# What a server says of a path that it does not have.
_UNKNOWN_PATH: Final = "Malformed request: "


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to send; `path` is already percent-encoded."""

    method: str
    path: str
    body: bytes | None = None


def encode(operation: Operation) -> Generator[None, None, HttpRequest]:
    """
    Return the request for *operation*; yield now and then while a large one is written.

    MultiInference and ReloadConfig are extensions that not every server has.

    Raises:
        Unimplemented: REST has no way to write one of the types.
    """
    match operation:
        case Metadata():
            return HttpRequest("GET", f"{model_path(operation.model)}/metadata")
        case Status():
            return HttpRequest("GET", model_path(operation.model))
        case ReloadConfig():
            return HttpRequest("POST", "/v1/config:reload", _config_body(operation))
        case Predict():
            verb, body = "predict", (yield from _predict_body(operation))
        case Classify():
            verb, body = "classify", _examples_body(operation)
        case Regress():
            verb, body = "regress", _examples_body(operation)
        case MultiInference():
            verb, body = "multi_inference", _tasks_body(operation)
    return HttpRequest("POST", f"{model_path(operation.model)}:{verb}", body)


def decode(operation: Operation, status: int, body: bytes) -> Any:
    """
    Return the result in a reply to *operation*.

    Raises:
        ServingError: the reply is an error, with the code that its status means.
        Unimplemented: the server has no such call over REST.
        Internal: the reply is not what the API promises.
    """
    if status != _OK:
        failure = error(status, body)
        is_unknown = failure.message.startswith(_UNKNOWN_PATH)
        if is_unknown and isinstance(operation, MultiInference | ReloadConfig):
            raise Unimplemented(
                f"this server has no {type(operation).__name__} over REST; use a gRPC "
                "address, as Client('host:8500')"
            )
        raise failure
    try:
        document = json.loads(body.decode("utf-8", "surrogateescape"))
        return _DECODERS[type(operation)](operation, document)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Internal(
            f"the reply is not one of the TensorFlow Serving REST API: "
            f"{type(exc).__name__}: {exc}; it begins with {body[:80]!r}"
        ) from exc


def error(status: int, body: bytes) -> ServingError:
    """Return the error in a reply; its text, or what else the body says."""
    code = _CODES.get(status, Code.UNKNOWN)
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace").strip()
        text = f"HTTP status {status}" + (f": {text}" if text else "")
    return from_code(code, str(text))


def model_path(model: ModelRef) -> str:
    """Return the path of a model, percent-encoded."""
    path = f"/v1/models/{quote(model.name, safe='')}"
    if model.version is not None:
        return f"{path}/versions/{model.version}"
    if model.label is not None:
        return f"{path}/labels/{quote(model.label, safe='')}"
    return path


def _dumps(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _predict_body(operation: Predict) -> Generator[None, None, bytes]:
    head = {"signature_name": operation.signature_name, "inputs": {}}
    if not operation.signature_name:
        del head["signature_name"]
    parts = [_dumps(head)[:-2]]
    for number, (name, tensor) in enumerate(operation.inputs.items()):
        if tensor.dtype.name not in _JSON_DTYPES:
            raise Unimplemented(
                f"input {name!r}: the REST API has no {tensor.dtype} values; use a "
                "gRPC address, as Client('host:8500')"
            )
        parts.append((b"," if number else b"") + _dumps(name) + b":")
        for part in _values(tensor.array, tensor.dtype):
            parts.append(part)
            if tensor.array.size > _BLOCK:
                yield
    return b"".join(parts) + b"}}"


def _values(array: npt.NDArray[Any], dtype: DType) -> Iterator[bytes]:
    """Return the values in JSON, in pieces."""
    if array.size <= _BLOCK or array.ndim == 0:
        yield _block(array, dtype)
        return
    rows = max(1, _BLOCK * len(array) // array.size)
    opening = b"["
    for at in range(0, len(array), rows):
        yield opening
        if rows == 1:
            yield from _values(array[at], dtype)
        else:
            yield _block(array[at : at + rows], dtype)[1:-1]
        opening = b","
    yield b"]"


def _block(array: npt.NDArray[Any], dtype: DType) -> bytes:
    if dtype is STRING:
        return _dumps(_json_strings(array.tolist()))
    if dtype is _FLOAT32 and array.size > _FEW and np.isfinite(array).all():
        has_negative_zero = bool((np.signbit(array) & (array == 0)).any())
        template = _template(array.shape, "%#.9g" if has_negative_zero else "%.9g")
        return (template % tuple(array.reshape(-1).tolist())).encode()
    return _dumps(array.tolist())


@functools.lru_cache(maxsize=4)
def _template(shape: tuple[int, ...], number: str) -> str:
    """
    Return what makes JSON of so many numbers, three times as fast as json does.

    Nine digits say which float32 is meant; json writes the seventeen of a float64.  A
    zero that is negative needs its point, as servers read `-0` as an integer.
    """
    text = number
    for size in reversed(shape):
        text = "[" + ",".join([text] * size) + "]"
    return text


def _json_strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_strings(v) for v in value]
    return json_string(value)


def json_string(value: bytes) -> str | dict[str, str]:
    """Return bytes as the text they are, or in base 64 where they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _prediction(operation: Predict, document: Any) -> Outputs:
    values = document["outputs"]
    signature = operation.signature
    specs = signature.outputs if signature is not None else {}
    if len(specs) == 1:
        values = {next(iter(specs)): values}
    elif not specs and not isinstance(values, dict):
        values = {"outputs": values}
    wanted = operation.outputs or sorted(values)
    arrays = {n: _array(values[n], specs.get(n)) for n in wanted}
    if not operation.writable:
        for array in arrays.values():
            read_only(array)
    return Outputs(arrays, None)


def _array(value: Any, spec: TensorSpec | None) -> npt.NDArray[Any]:
    if spec is None or spec.dtype is None:
        return np.array(value)
    if spec.dtype is STRING:
        return np.array(_bytes_of(value), object)
    return np.array(value, dtypes.to_numpy(spec.dtype))


def _bytes_of(value: Any) -> Any:
    match value:
        case list():
            return [_bytes_of(v) for v in value]
        case {"b64": text}:
            return base64.b64decode(text)
        case _:
            return value.encode("utf-8", "surrogateescape")


def _examples_body(operation: Classify | Regress) -> bytes:
    document: dict[str, Any] = {}
    if operation.signature_name:
        document["signature_name"] = operation.signature_name
    return _dumps(document | _examples(operation))


def _tasks_body(operation: MultiInference) -> bytes:
    tasks = [
        {"signature_name": name, "method_name": method}
        for name, method in operation.tasks
    ]
    return _dumps({"tasks": tasks} | _examples(operation))


def _config_body(operation: ReloadConfig) -> bytes:
    from google.protobuf import json_format  # noqa: PLC0415 - slow, and only here

    config = json_format.MessageToDict(
        operation.config, preserving_proto_field_name=True, descriptor_pool=POOL
    )
    return _dumps({"config": config})


def _examples(operation: Classify | Regress | MultiInference) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if operation.context is not None:
        document["context"] = _json_example(operation.context)
    document["examples"] = [_json_example(e) for e in operation.examples]
    return document


def _json_example(example: example_pb2.Example) -> dict[str, Any]:
    return {
        name: _json_feature(feature)
        for name, feature in sorted(example.features.feature.items())
    }


def _json_feature(feature: feature_pb2.Feature) -> Any:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return []
    values = [
        json_string(v) if isinstance(v, bytes) else v
        for v in getattr(feature, kind).value
    ]
    return values[0] if len(values) == 1 else values


def _classification(_operation: Classify, document: Any) -> Classification:
    return _classes(document["results"])


def _classes(rows: Any) -> Classification:
    labels = np.array([[label for label, _score in row] for row in rows], np.str_)
    scores = np.array([[score for _label, score in row] for row in rows], np.float32)
    return Classification(labels, scores)


def _regression(_operation: Regress, document: Any) -> npt.NDArray[Any]:
    return np.array(document["results"], np.float32)


def _inferences(
    _operation: MultiInference, document: Any
) -> Mapping[str, Classification | npt.NDArray[Any]]:
    return {
        result["signature_name"]: _classes(result["classifications"])
        if "classifications" in result
        else np.array(result["regressions"], np.float32)
        for result in document["results"]
    }


def _reloaded(_operation: ReloadConfig, document: Any) -> None:
    status = document.get("status", {})
    code = Code[status.get("error_code", "OK")]
    if code is not Code.OK:
        raise from_code(code, status.get("error_message", ""))


def _metadata(_operation: Metadata, document: Any) -> ModelMetadata:
    from google.protobuf import json_format  # noqa: PLC0415 - slow, and only here

    spec = json_format.ParseDict(
        document["model_spec"], model_pb2.ModelSpec(), ignore_unknown_fields=True
    )
    signatures = json_format.ParseDict(
        document["metadata"]["signature_def"],
        get_model_metadata_pb2.SignatureDefMap(),
        ignore_unknown_fields=True,
    )
    return ModelMetadata(
        spec.name, spec.version.value, signatures_from(signatures.signature_def)
    )


def _status(operation: Status, document: Any) -> Any:
    from google.protobuf import json_format  # noqa: PLC0415 - slow, and only here

    response = json_format.ParseDict(
        document,
        get_model_status_pb2.GetModelStatusResponse(),
        ignore_unknown_fields=True,
    )
    return version_statuses(operation, response)


_DECODERS: Final[Mapping[type[Operation], Callable[[Any, Any], Any]]] = {
    Predict: _prediction,
    Classify: _classification,
    Regress: _regression,
    MultiInference: _inferences,
    ReloadConfig: _reloaded,
    Metadata: _metadata,
    Status: _status,
}
