"""What `grpcurl` and its like ask: which services there are, and their messages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("servable._engine")

# Fields of ServerReflectionRequest: file_containing_symbol = 4, list_services = 7.
LIST_SERVICES = b"\x3a\x01*"
SYMBOL = b"tensorflow.serving.PredictionService"
FILE_CONTAINING_SYMBOL = bytes([0x22, len(SYMBOL)]) + SYMBOL


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> Any:
    version = write_version(tmp_path_factory.mktemp("models") / "m" / "1")
    return start(f"--model_base_path={version.parent}", "--model_name=m")


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(
            LIST_SERVICES,
            [SYMBOL, b"tensorflow.serving.ModelService"],
            id="services are listed",
        ),
        pytest.param(
            FILE_CONTAINING_SYMBOL,
            [b"GetModelMetadata", b"tensorflow_serving/apis/predict.proto"],
            id="a service is described, and what it needs",
        ),
    ],
)
def test_reflection(
    server: Any, package: str, request_: bytes, expected: list[bytes]
) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        ask: Any = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo"
        )
        answers = list(ask(iter([request_]), timeout=30))

    assert len(answers) == 1
    assert [part for part in expected if part not in answers[0]] == []
