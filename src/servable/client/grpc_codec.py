"""How each operation looks over gRPC: its path, its request, its response."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from servable.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from servable.client.operations import (
    Classification,
    Classify,
    Metadata,
    MultiInference,
    Operation,
    Outputs,
    Predict,
    Regress,
    ReloadConfig,
    Status,
    VersionStatus,
)
from servable.client.predict_wire import decode_response, encode_request, fill_spec
from servable.client.signatures import ModelMetadata, metadata_from
from servable.errors import Code, Internal, from_code


@dataclass(frozen=True, slots=True)
class Rpc:
    """One remote procedure, and how to get to and from its messages."""

    path: str
    request: type[Message]
    response: type[Message]
    encode: Callable[[Any], bytes]
    decode: Callable[[Any, bytes], Any]


def _rpc(
    path: str,
    request: type[Message],
    response: type[Message],
    make: Callable[[Any], Message],
    read: Callable[[Any, Any], Any],
) -> Rpc:
    """Return an Rpc whose messages are made and read as such."""

    def decode(operation: Any, data: bytes) -> Any:
        try:
            message = response.FromString(data)
        except DecodeError as exc:
            raise Internal(f"the answer is no {response.__name__}: {exc}") from None
        return read(operation, message)

    return Rpc(path, request, response, lambda op: make(op).SerializeToString(), decode)


def _prediction(operation: Predict, data: bytes) -> Outputs:
    return decode_response(data, writable=operation.writable)


def _fill_input(
    message: input_pb2.Input, operation: Classify | Regress | MultiInference
) -> None:
    if operation.context is None:
        message.example_list.examples.extend(operation.examples)
    else:
        message.example_list_with_context.examples.extend(operation.examples)
        message.example_list_with_context.context.CopyFrom(operation.context)


def _classification_request(
    operation: Classify,
) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, operation.model, operation.signature_name)
    _fill_input(request.input, operation)
    return request


def _classification(
    _operation: Classify, response: classification_pb2.ClassificationResponse
) -> Classification:
    return _classes(response.result)


def _classes(result: classification_pb2.ClassificationResult) -> Classification:
    rows = result.classifications
    labels = np.array([[c.label for c in row.classes] for row in rows], dtype=np.str_)
    scores = np.array([[c.score for c in row.classes] for row in rows], np.float32)
    return Classification(labels, scores)


def _regression_request(operation: Regress) -> regression_pb2.RegressionRequest:
    request = regression_pb2.RegressionRequest()
    fill_spec(request.model_spec, operation.model, operation.signature_name)
    _fill_input(request.input, operation)
    return request


def _regression(
    _operation: Regress, response: regression_pb2.RegressionResponse
) -> npt.NDArray[Any]:
    return _values(response.result)


def _values(result: regression_pb2.RegressionResult) -> npt.NDArray[Any]:
    return np.array([r.value for r in result.regressions], np.float32)


def _multi_inference_request(
    operation: MultiInference,
) -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest()
    for signature_name, method in operation.tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        fill_spec(task.model_spec, operation.model, signature_name)
    _fill_input(request.input, operation)
    return request


def _inferences(
    operation: MultiInference, response: inference_pb2.MultiInferenceResponse
) -> Mapping[str, Classification | npt.NDArray[Any]]:
    names = (signature_name for signature_name, _method in operation.tasks)
    return {
        name: _classes(result.classification_result)
        if result.HasField("classification_result")
        else _values(result.regression_result)
        for name, result in zip(names, response.results, strict=True)
    }


def _metadata_request(
    operation: Metadata,
) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=["signature_def"]
    )
    fill_spec(request.model_spec, operation.model)
    return request


def _metadata(
    _operation: Metadata, response: get_model_metadata_pb2.GetModelMetadataResponse
) -> ModelMetadata:
    return metadata_from(response)


def _status_request(operation: Status) -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, operation.model)
    return request


def version_statuses(
    _operation: Status, response: get_model_status_pb2.GetModelStatusResponse
) -> Iterable[VersionStatus]:
    """Return the versions of a GetModelStatusResponse, in its order."""
    states = get_model_status_pb2.ModelVersionStatus.State
    return tuple(
        VersionStatus(
            entry.version,
            states.Name(entry.state),
            Code(entry.status.error_code),
            entry.status.error_message,
        )
        for entry in response.model_version_status
    )


def _reload_request(
    operation: ReloadConfig,
) -> model_management_pb2.ReloadConfigRequest:
    return model_management_pb2.ReloadConfigRequest(config=operation.config)


def _reloaded(
    _operation: ReloadConfig, response: model_management_pb2.ReloadConfigResponse
) -> None:
    if response.status.error_code:
        raise from_code(response.status.error_code, response.status.error_message)


_PREDICTION: Final = "/tensorflow.serving.PredictionService/"
_MODEL: Final = "/tensorflow.serving.ModelService/"

RPCS: Final[Mapping[type[Operation], Rpc]] = {
    Predict: Rpc(
        _PREDICTION + "Predict",
        predict_pb2.PredictRequest,
        predict_pb2.PredictResponse,
        encode_request,
        _prediction,
    ),
    Classify: _rpc(
        _PREDICTION + "Classify",
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
        _classification_request,
        _classification,
    ),
    Regress: _rpc(
        _PREDICTION + "Regress",
        regression_pb2.RegressionRequest,
        regression_pb2.RegressionResponse,
        _regression_request,
        _regression,
    ),
    MultiInference: _rpc(
        _PREDICTION + "MultiInference",
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
        _multi_inference_request,
        _inferences,
    ),
    Metadata: _rpc(
        _PREDICTION + "GetModelMetadata",
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
        _metadata_request,
        _metadata,
    ),
    Status: _rpc(
        _MODEL + "GetModelStatus",
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
        _status_request,
        version_statuses,
    ),
    ReloadConfig: _rpc(
        _MODEL + "HandleReloadConfigRequest",
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
        _reload_request,
        _reloaded,
    ),
}
