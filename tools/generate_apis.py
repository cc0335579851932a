"""
Write src/servable/apis from proto/: the descriptor set, the modules, their stubs.

    python tools/generate_apis.py [--check]

Needs grpcio-tools for its protoc, and nothing at run time does.  With --check
nothing is written, and the exit code says whether the package is current.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
APIS = ROOT / "src" / "servable" / "apis"
DESCRIPTORS = "descriptors.binpb"

# Fields of our messages: they must come from our pool, and so have modules here.
WELL_KNOWN = ("google/protobuf/any.proto", "google/protobuf/wrappers.proto")


def main() -> int:
    """Write the package, or say what in it is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wanted = generate()
    stale = [name for name, data in wanted.items() if not is_current(name, data)]
    obsolete = [
        path.name
        for path in sorted([*APIS.glob("*_pb2*.py"), *APIS.glob("*_pb2*.pyi")])
        if path.name not in wanted
    ]
    if check:
        for name in stale + obsolete:
            print(f"not current: src/servable/apis/{name}")
        return 1 if stale or obsolete else 0
    for name in stale:
        (APIS / name).write_bytes(wanted[name])
    for name in obsolete:
        (APIS / name).unlink()
    return 0


def generate() -> Mapping[str, bytes]:
    """Return the content of every generated file by its name in the package."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        descriptors = compile_protos(out)
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
        generated = {DESCRIPTORS: descriptors}
        for file in files:
            module = module_name(file.name)
            if f"{module}.py" in generated:
                raise SystemExit(f"two .proto files would be the module {module}")
            generated[f"{module}.py"] = messages_module(file).encode()
            stub = (out / file.name).with_name(f"{module}.pyi")
            generated[f"{module}.pyi"] = rewrite_stub(stub.read_text()).encode()
            if file.service:
                generated[f"{module}_grpc.py"] = services_module(file).encode()
                generated[f"{module}_grpc.pyi"] = services_stub(file, files).encode()
    return generated


def compile_protos(out: Path) -> bytes:
    """Run protoc over proto/ and return the descriptor set; stubs go to *out*."""
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    descriptors = out / DESCRIPTORS
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            "--include_imports",
            f"--descriptor_set_out={descriptors}",
            f"--pyi_out={out}",
            *ours,
            *WELL_KNOWN,
        ]
    )
    if code:
        raise SystemExit(code)
    return descriptors.read_bytes()


def is_current(name: str, data: bytes) -> bool:
    """Return whether a generated file says what *data* says."""
    path = APIS / name
    if not path.exists():
        return False
    if name == DESCRIPTORS:  # protoc versions may write one message in two ways
        return descriptor_pb2.FileDescriptorSet.FromString(
            path.read_bytes()
        ) == descriptor_pb2.FileDescriptorSet.FromString(data)
    return path.read_bytes() == data


def module_name(file_name: str) -> str:
    """Return the name of the module for a .proto file."""
    return Path(file_name).stem + "_pb2"


def messages_module(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Return the text of a *_pb2.py."""
    return (
        f'"""Messages of {file.name}; written by tools/generate_apis.py."""\n\n'
        "from servable.apis._modules import define_messages\n\n"
        f'define_messages(globals(), "{file.name}")\n'
    )


def services_module(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Return the text of a *_pb2_grpc.py."""
    return (
        f'"""Services of {file.name}; written by tools/generate_apis.py."""\n\n'
        "from servable.apis._modules import define_services\n\n"
        f'define_services(globals(), "{file.name}")\n'
    )


def rewrite_stub(text: str) -> str:
    """Make protoc's stub import from this package, and complete its generics."""
    imports = re.compile(r"^from [\w.]+ (?=import \w+_pb2 as )", re.MULTILINE)
    text = imports.sub("from servable.apis ", text)
    text = re.sub(r"\b_Mapping\b(?=[],])", "_Mapping[str, _Any]", text)
    if "_Any]" in text:
        text = text.replace("from typing import", "from typing import Any as _Any,", 1)
    return text


def services_stub(
    file: descriptor_pb2.FileDescriptorProto,
    files: Iterable[descriptor_pb2.FileDescriptorProto],
) -> str:
    """Return the text of a *_pb2_grpc.pyi."""
    homes = {
        f".{other.package}.{message.name}": module_name(other.name)
        for other in files
        for message in other.message_type
    }
    lines = [
        "from typing import Any",
        "",
        "import grpc",
        *sorted(
            {
                f"from servable.apis import {homes[type_name]}"
                for service in file.service
                for rpc in service.method
                for type_name in (rpc.input_type, rpc.output_type)
            }
        ),
    ]

    def python_name(type_name: str) -> str:
        return f"{homes[type_name]}.{type_name.rpartition('.')[2]}"

    for service in file.service:
        stub = ["    def __init__(self, channel: grpc.Channel) -> None: ..."]
        servicer = []
        for rpc in service.method:
            request = python_name(rpc.input_type)
            response = python_name(rpc.output_type)
            stub.append(
                f"    {rpc.name}: grpc.UnaryUnaryMultiCallable[{request}, {response}]"
            )
            servicer.append(
                f"    def {rpc.name}(self, request: {request}, "
                f"context: grpc.ServicerContext) -> {response}: ..."
            )
        lines += ["", f"class {service.name}Stub:", *stub]
        lines += ["", f"class {service.name}Servicer:", *servicer]
        lines += [
            "",
            f"def add_{service.name}Servicer_to_server("
            f"servicer: {service.name}Servicer, server: Any) -> None: ...",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
