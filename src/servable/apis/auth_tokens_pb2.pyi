from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import Any as _Any, ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthTokens(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[AuthToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[AuthToken, _Mapping[str, _Any]]]] = ...) -> None: ...

class AuthToken(_message.Message):
    __slots__ = ("name", "sha256", "token", "scopes", "models")
    class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCOPE_UNSPECIFIED: _ClassVar[AuthToken.Scope]
        PREDICT: _ClassVar[AuthToken.Scope]
        STATUS: _ClassVar[AuthToken.Scope]
        METRICS: _ClassVar[AuthToken.Scope]
        ADMIN: _ClassVar[AuthToken.Scope]
    SCOPE_UNSPECIFIED: AuthToken.Scope
    PREDICT: AuthToken.Scope
    STATUS: AuthToken.Scope
    METRICS: AuthToken.Scope
    ADMIN: AuthToken.Scope
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    token: str
    scopes: _containers.RepeatedScalarFieldContainer[AuthToken.Scope]
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., token: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[AuthToken.Scope, str]]] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...
