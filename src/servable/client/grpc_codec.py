"""How each operation looks over gRPC: its path, its request, its response."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from servable.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
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
    VersionStatus,
)
from servable.client.signatures import ModelMetadata, metadata_from
from servable.client.tensors import encode, make_ndarray
from servable.errors import Code, from_code


@dataclass(frozen=True, slots=True)
class Rpc:
    """One remote procedure, and how to get to and from its messages."""

    path: str
    request: type[Message]
    response: type[Message]
    encode: Callable[[Any], Any]
    decode: Callable[[Any, Any], Any]


def _fill_spec(
    spec: model_pb2.ModelSpec, model: ModelRef, signature_name: str = ""
) -> None:
    spec.name = model.name
    if model.version is not None:
        spec.version.value = model.version
    elif model.label is not None:
        spec.version_label = model.label
    if signature_name:
        spec.signature_name = signature_name


def _predict_request(operation: Predict) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=operation.outputs)
    _fill_spec(request.model_spec, operation.model, operation.signature_name)
    for name, (array, dtype) in operation.inputs.items():
        encode(array, dtype, request.inputs[name])
    return request


def _prediction(_operation: Predict, response: predict_pb2.PredictResponse) -> Outputs:
    outputs = {name: make_ndarray(t) for name, t in sorted(response.outputs.items())}
    return Outputs(outputs, response.model_spec.version.value)


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
    _fill_spec(request.model_spec, operation.model, operation.signature_name)
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
    _fill_spec(request.model_spec, operation.model, operation.signature_name)
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
        _fill_spec(task.model_spec, operation.model, signature_name)
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
    _fill_spec(request.model_spec, operation.model)
    return request


def _metadata(
    _operation: Metadata, response: get_model_metadata_pb2.GetModelMetadataResponse
) -> ModelMetadata:
    return metadata_from(response)


def _status_request(operation: Status) -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    _fill_spec(request.model_spec, operation.model)
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
        _predict_request,
        _prediction,
    ),
    Classify: Rpc(
        _PREDICTION + "Classify",
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
        _classification_request,
        _classification,
    ),
    Regress: Rpc(
        _PREDICTION + "Regress",
        regression_pb2.RegressionRequest,
        regression_pb2.RegressionResponse,
        _regression_request,
        _regression,
    ),
    MultiInference: Rpc(
        _PREDICTION + "MultiInference",
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
        _multi_inference_request,
        _inferences,
    ),
    Metadata: Rpc(
        _PREDICTION + "GetModelMetadata",
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
        _metadata_request,
        _metadata,
    ),
    Status: Rpc(
        _MODEL + "GetModelStatus",
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
        _status_request,
        version_statuses,
    ),
    ReloadConfig: Rpc(
        _MODEL + "HandleReloadConfigRequest",
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
        _reload_request,
        _reloaded,
    ),
}
