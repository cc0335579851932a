from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelOptions(_message.Message):
    __slots__ = ("aspired_version_policy", "pinned", "canary", "shadow")
    ASPIRED_VERSION_POLICY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    aspired_version_policy: str
    pinned: Pinned
    canary: Canary
    shadow: Shadow
    def __init__(self, aspired_version_policy: _Optional[str] = ..., pinned: _Optional[_Union[Pinned, _Mapping[str, _Any]]] = ..., canary: _Optional[_Union[Canary, _Mapping[str, _Any]]] = ..., shadow: _Optional[_Union[Shadow, _Mapping[str, _Any]]] = ...) -> None: ...

class Pinned(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("percent", "min_requests", "min_seconds", "max_error_rate_increase", "max_latency_ratio")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATE_INCREASE_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_RATIO_FIELD_NUMBER: _ClassVar[int]
    percent: float
    min_requests: int
    min_seconds: float
    max_error_rate_increase: float
    max_latency_ratio: float
    def __init__(self, percent: _Optional[float] = ..., min_requests: _Optional[int] = ..., min_seconds: _Optional[float] = ..., max_error_rate_increase: _Optional[float] = ..., max_latency_ratio: _Optional[float] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("percent", "relative_tolerance")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    percent: float
    relative_tolerance: float
    def __init__(self, percent: _Optional[float] = ..., relative_tolerance: _Optional[float] = ...) -> None: ...
