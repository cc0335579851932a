from servable.apis import get_model_status_pb2 as _get_model_status_pb2
from servable.apis import model_server_config_pb2 as _model_server_config_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping[str, _Any]]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("config", "versions", "rollout", "problem")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    config: _model_server_config_pb2.ModelConfig
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    rollout: Rollout
    problem: str
    def __init__(self, config: _Optional[_Union[_model_server_config_pb2.ModelConfig, _Mapping[str, _Any]]] = ..., versions: _Optional[_Iterable[_Union[Version, _Mapping[str, _Any]]]] = ..., rollout: _Optional[_Union[Rollout, _Mapping[str, _Any]]] = ..., problem: _Optional[str] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("status", "progress", "progress_seconds", "reserved_bytes", "default_percent", "shadow_requests")
    class ShadowRequestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PERCENT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    status: _get_model_status_pb2.ModelVersionStatus
    progress: str
    progress_seconds: float
    reserved_bytes: int
    default_percent: float
    shadow_requests: _containers.ScalarMap[str, int]
    def __init__(self, status: _Optional[_Union[_get_model_status_pb2.ModelVersionStatus, _Mapping[str, _Any]]] = ..., progress: _Optional[str] = ..., progress_seconds: _Optional[float] = ..., reserved_bytes: _Optional[int] = ..., default_percent: _Optional[float] = ..., shadow_requests: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("kind", "promoted_version", "candidate_version", "rejected_versions", "verdict")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REJECTED_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    promoted_version: int
    candidate_version: int
    rejected_versions: _containers.RepeatedScalarFieldContainer[int]
    verdict: str
    def __init__(self, kind: _Optional[str] = ..., promoted_version: _Optional[int] = ..., candidate_version: _Optional[int] = ..., rejected_versions: _Optional[_Iterable[int]] = ..., verdict: _Optional[str] = ...) -> None: ...

class AddModelRequest(_message.Message):
    __slots__ = ("config", "replace", "wait_seconds")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    config: _model_server_config_pb2.ModelConfig
    replace: bool
    wait_seconds: float
    def __init__(self, config: _Optional[_Union[_model_server_config_pb2.ModelConfig, _Mapping[str, _Any]]] = ..., replace: _Optional[bool] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class RemoveModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SetLabelsRequest(_message.Message):
    __slots__ = ("name", "labels", "removed_labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, int]
    removed_labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, int]] = ..., removed_labels: _Optional[_Iterable[str]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ReloadModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangeResponse(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...
