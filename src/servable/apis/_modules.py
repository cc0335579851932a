"""
Fill the *_pb2 and *_pb2_grpc modules of this package from one descriptor set.

A module costs what its own file needs: descriptors enter the pool on first use, in
the order of their imports, and message classes are made for that file alone.
"""

import functools
import pkgutil
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message

POOL: Final = DescriptorPool()

_lock = threading.RLock()
_added: dict[str, FileDescriptor] = {}
_classes: list[type[Message]] = []  # protobuf forgets a class that nobody holds


def define_messages(module: MutableMapping[str, Any], file_name: str) -> None:
    """Put into *module* what protoc would generate for *file_name*."""
    file = _file_descriptor(file_name)
    module["DESCRIPTOR"] = file
    for enum in file.enum_types_by_name.values():
        module[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(message, module["__name__"], name)


def define_services(module: MutableMapping[str, Any], file_name: str) -> None:
    """Put into *module* what grpcio's generator would generate for *file_name*."""
    import grpc  # noqa: PLC0415 - messages are of use where grpcio is not installed

    for name, service in _file_descriptor(file_name).services_by_name.items():
        rpcs = {
            method.name: (
                f"/{service.full_name}/{method.name}",
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
            )
            for method in service.methods
        }
        home = {"__module__": module["__name__"]}
        module[f"{name}Stub"] = type(
            f"{name}Stub", (), {**home, "__init__": _stub_init(rpcs)}
        )
        module[f"{name}Servicer"] = type(
            f"{name}Servicer",
            (),
            {**home, **{rpc: _unimplemented(grpc, rpc) for rpc in rpcs}},
        )
        module[f"add_{name}Servicer_to_server"] = _add_to_server(
            grpc, service.full_name, rpcs
        )


_Rpcs = Mapping[str, tuple[str, type[Message], type[Message]]]


def _stub_init(rpcs: _Rpcs) -> Callable[[Any, Any], None]:
    def __init__(self: Any, channel: Any) -> None:  # noqa: N807 - becomes a method
        for rpc, (path, request, response) in rpcs.items():
            call = channel.unary_unary(
                path,
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, rpc, call)

    return __init__


def _unimplemented(grpc: Any, rpc: str) -> Callable[[Any, Any, Any], None]:
    def method(_self: Any, _request: Any, context: Any) -> None:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")

    method.__name__ = method.__qualname__ = rpc
    return method


def _add_to_server(
    grpc: Any, service_name: str, rpcs: _Rpcs
) -> Callable[[Any, Any], None]:
    def add_to_server(servicer: Any, server: Any) -> None:
        handlers = {
            rpc: grpc.unary_unary_rpc_method_handler(
                getattr(servicer, rpc),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for rpc, (_path, request, response) in rpcs.items()
        }
        handler = grpc.method_handlers_generic_handler(service_name, handlers)
        server.add_generic_rpc_handlers((handler,))

    return add_to_server


def _message_class(message: Descriptor, module: str, qualname: str) -> type[Message]:
    """Return the class of *message*, named so that pickle and repr find it."""
    class_ = message_factory.GetMessageClass(message)
    class_.__module__ = module
    class_.__qualname__ = qualname
    _classes.append(class_)
    for name, nested in message.nested_types_by_name.items():
        _message_class(nested, module, f"{qualname}.{name}")
    return class_


def _file_descriptor(file_name: str) -> FileDescriptor:
    with _lock:
        if file_name not in _added:
            file = _files()[file_name]
            for dependency in file.dependency:
                _file_descriptor(dependency)
            POOL.AddSerializedFile(file.SerializeToString())
            _added[file_name] = POOL.FindFileByName(file_name)
        return _added[file_name]


@functools.cache
def _files() -> Mapping[str, descriptor_pb2.FileDescriptorProto]:
    data = pkgutil.get_data(__package__, "descriptors.binpb")
    assert data is not None  # noqa: S101 - every loader of packages reads data
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    return {file.name: file for file in files}
