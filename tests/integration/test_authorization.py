"""
Who may ask what where tokens are asked for: every method over every way in, with no
token, with a wrong one, with one for other things, and with one for it.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

pytest.importorskip("servable._engine")

from servable.apis import (
    administration_pb2,
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
    session_service_pb2,
)
from servable.client import AsyncClient, Client, make_tensor_proto
from servable.errors import PermissionDenied, ServingError, Unauthenticated

SECRETS = {
    name: hashlib.sha256(name.encode()).hexdigest()[:32]
    for name in ("predict", "status", "metrics", "admin", "narrow")
}
SPEC = model_pb2.ModelSpec(name="m")
REGRESS = "tensorflow/serving/regress"


def examples() -> input_pb2.Input:
    made = input_pb2.Input()
    example = made.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    return made


def predict() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec=SPEC)
    tensor = make_tensor_proto([2.0], "float32")
    request.inputs["x"].MergeFromString(tensor.SerializeToString())
    return request


def multi_inference() -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest(input=examples())
    spec = model_pb2.ModelSpec(name="m", signature_name="regress")
    request.tasks.add(model_spec=spec, method_name=REGRESS)
    return request


# What is no message is told so, but only to those who may ask.
NONE = b"\x0a\x7f"
PREDICTION = "tensorflow.serving.PredictionService"
MODELS = "tensorflow.serving.ModelService"
# By method: a message, and the scopes of which one is needed.
GRPC: dict[str, tuple[bytes, set[str]]] = {
    f"{PREDICTION}/Predict": (predict().SerializeToString(), {"predict"}),
    f"{PREDICTION}/Classify": (
        classification_pb2.ClassificationRequest(
            model_spec=model_pb2.ModelSpec(name="m", signature_name="classify"),
            input=examples(),
        ).SerializeToString(),
        {"predict"},
    ),
    f"{PREDICTION}/Regress": (
        regression_pb2.RegressionRequest(
            model_spec=model_pb2.ModelSpec(name="m", signature_name="regress"),
            input=examples(),
        ).SerializeToString(),
        {"predict"},
    ),
    f"{PREDICTION}/MultiInference": (
        multi_inference().SerializeToString(),
        {"predict"},
    ),
    f"{PREDICTION}/GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=SPEC, metadata_field=["signature_def"]
        ).SerializeToString(),
        {"predict", "status"},
    ),
    f"{MODELS}/GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest(model_spec=SPEC).SerializeToString(),
        {"status"},
    ),
    f"{MODELS}/HandleReloadConfigRequest": (NONE, {"admin"}),
    "tensorflow.serving.SessionService/SessionRun": (NONE, {"admin"}),
    "tensorflow.ProfilerService/Profile": (NONE, {"admin"}),
    "tensorflow.ProfilerService/Terminate": (NONE, {"admin"}),
    "tensorflow.ProfilerService/Monitor": (NONE, {"admin"}),
    **{
        f"servable.Administration/{method.name}": (NONE, {"admin"})
        for method in administration_pb2.DESCRIPTOR.services_by_name[
            "Administration"
        ].methods
    },
}
BODY = json.dumps({"instances": [2.0]})
EXAMPLES = json.dumps({"signature_name": "regress", "examples": [{"x": 2.0}]})
REST: dict[tuple[str, str, str], set[str]] = {
    ("POST", "/v1/models/m:predict", BODY): {"predict"},
    ("POST", "/V1/Models/m:predict", BODY): {"predict"},
    ("POST", "/v1/models/m/versions/1:predict", BODY): {"predict"},
    ("POST", "/v1/models/m:classify", EXAMPLES): {"predict"},
    ("POST", "/v1/models/m:regress", EXAMPLES): {"predict"},
    ("POST", "/v1/models/m:multi_inference", "{}"): {"predict"},
    ("GET", "/v1/models/m", ""): {"status"},
    ("GET", "/v1/models/m/versions/1", ""): {"status"},
    ("GET", "/v1/models/m/metadata", ""): {"predict", "status"},
    ("GET", "/v1/models", ""): {"status"},
    ("POST", "/v1/config:reload", "{}"): {"admin"},
    ("GET", "/metrics", ""): {"metrics"},
    ("GET", "/metrics?x", ""): {"metrics"},
    ("GET", "/monitoring/prometheus/metrics", ""): {"metrics"},
    # What makes no sense is said to whoever may ask anything.
    ("GET", "/v1/nothing", ""): {"predict", "status", "metrics", "admin"},
}
DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


def written(path: Path, *tokens: str) -> Path:
    path.write_text("\n".join(tokens))
    return path


def entry(name: str, scopes: str, extra: str = "", secret: str = "") -> str:
    sha256 = hashlib.sha256((secret or SECRETS[name]).encode()).hexdigest()
    return f'tokens {{ name: "{name}" sha256: "{sha256}" scopes: [{scopes}] {extra} }}'


@pytest.fixture(scope="module")
def flags(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> list[str]:
    directory = tmp_path_factory.mktemp("models")
    for name in ("m", "other"):
        write_version(directory / name / "1")
    config = written(
        directory / "models.config",
        "model_config_list {",
        *(
            f'config {{ name: "{name}" base_path: "{directory / name}" '
            'model_platform: "tensorflow" }'
            for name in ("m", "other")
        ),
        "}",
    )
    monitoring = written(directory / "monitoring", "prometheus_config { enable: true }")
    return [
        f"--model_config_file={config}",
        f"--monitoring_config_file={monitoring}",
        *("--wait_for_models=true", "--enable_session_service"),
        *("--rest_api_extensions", "--enable_grpc_healthcheck_service"),
    ]


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "s"


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    flags: list[str],
    socket_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    tokens = written(
        tmp_path_factory.mktemp("tokens") / "tokens",
        entry("predict", "PREDICT"),
        entry("status", "STATUS"),
        entry("metrics", "METRICS"),
        entry("admin", "ADMIN"),
        entry("narrow", "PREDICT, STATUS", 'models: "m"'),
    )
    return start(
        *flags, f"--auth_tokens_file={tokens}", f"--grpc_socket_path={socket_path}"
    )


def answered(
    target: str, method: str, message: bytes, token: str | None
) -> tuple[grpc.StatusCode, str]:
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    with grpc.insecure_channel(target) as channel:
        try:
            ask: Any = channel.unary_unary(f"/{method}")
            ask(message, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def fetched(
    server: Any, request: tuple[str, str, str], token: str | None
) -> httpx.Response:
    method, target, body = request
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.request(
        method, f"{server.rest}{target}", content=body, headers=headers, timeout=30
    )


def test_no_method_is_left_out() -> None:
    services = [
        *prediction_service_pb2.DESCRIPTOR.services_by_name.values(),
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
        *administration_pb2.DESCRIPTOR.services_by_name.values(),
        *session_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    methods = {f"{s.full_name}/{m.name}" for s in services for m in s.methods}

    assert methods <= GRPC.keys()


@pytest.mark.parametrize("way_in", ["TCP", "Unix socket"])
@pytest.mark.parametrize("method", GRPC)
def test_a_call_needs_a_token_that_is_for_it(
    server: Any, socket_path: Path, method: str, way_in: str
) -> None:
    target = server.grpc if way_in == "TCP" else f"unix:{socket_path}"
    message, scopes = GRPC[method]
    for token in (None, "", "f" * 32):
        code, text = answered(target, method, message, token)
        assert code is grpc.StatusCode.UNAUTHENTICATED, (token, text)
    for name in ("predict", "status", "metrics", "admin"):
        code, text = answered(target, method, message, SECRETS[name])
        if name in scopes:
            assert code not in DENIED, (name, text)
            assert (code is grpc.StatusCode.OK) is (message != NONE), (name, text)
        else:
            assert code is grpc.StatusCode.PERMISSION_DENIED, (name, text)
            needed = " or ".join(map(str.upper, sorted(scopes)))
            assert f"needs the scope {needed}, which the token {name} lacks" in text


@pytest.mark.parametrize("request_", REST, ids=lambda r: f"{r[0]} {r[1]}")
def test_a_request_needs_a_token_that_is_for_it(
    server: Any, request_: tuple[str, str, str]
) -> None:
    scopes = REST[request_]
    for token in (None, "f" * 32):
        response = fetched(server, request_, token)
        assert response.status_code == 401, (token, response.text)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for name in ("predict", "status", "metrics", "admin"):
        response = fetched(server, request_, SECRETS[name])
        if name in scopes:
            assert response.status_code in {200, 400}, (name, response.text)
        else:
            assert response.status_code == 403, (name, response.text)
            assert f"which the token {name} lacks" in response.json()["error"]


def test_http_2_asks_for_the_same(server: Any) -> None:
    command = [
        *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"),
        *("--http2-prior-knowledge", f"{server.rest}/v1/models/m:predict", "-d", BODY),
    ]

    def status(*more: str) -> str:
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, check=True
        ).stdout

    assert status() == "401"
    assert status("-H", f"Authorization: Bearer {SECRETS['status']}") == "403"
    assert status("-H", f"Authorization: Bearer {SECRETS['predict']}") == "200"


def test_reflection_is_for_those_with_a_token(server: Any) -> None:
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    with grpc.insecure_channel(server.grpc) as channel:
        ask: Any = channel.stream_stream(method)
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([b"\x3a\x00"]), timeout=30))
        metadata = [("authorization", f"Bearer {SECRETS['status']}")]
        answers = list(ask(iter([b"\x3a\x00"]), timeout=30, metadata=metadata))

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert answers


@pytest.mark.parametrize("page", ["/healthz", "/readyz"])
def test_probes_need_no_token(server: Any, page: str) -> None:
    assert httpx.get(f"{server.rest}{page}").status_code == 200


def test_health_over_grpc_needs_no_token(server: Any) -> None:
    code, _ = answered(server.grpc, "grpc.health.v1.Health/Check", b"", None)

    assert code is grpc.StatusCode.OK


def test_a_token_may_be_for_some_models(server: Any) -> None:
    for address in (server.grpc, server.rest):
        with Client(address, token=SECRETS["narrow"]) as client:
            assert client.predict("m", [2.0]) is not None
            assert client.status("m")
            for ask in (client.status, client.metadata):
                with pytest.raises(PermissionDenied, match="not for the model other"):
                    ask("other")
            with pytest.raises(PermissionDenied, match="not for the model other"):
                client.predict("other", {"x": [2.0]})

    response = fetched(server, ("GET", "/v1/models", ""), SECRETS["narrow"])
    assert response.status_code == 403


def test_a_body_names_no_other_model_than_the_target(server: Any) -> None:
    request = predict()
    request.model_spec.name = "other"
    response = httpx.post(
        f"{server.rest}/v1/models/m:predict",
        content=request.SerializeToString(),
        headers={
            "Authorization": f"Bearer {SECRETS['narrow']}",
            "Content-Type": "application/x-protobuf",
        },
    )

    assert response.status_code == 200, response.text
    answer = predict_pb2.PredictResponse.FromString(response.content)
    assert answer.model_spec.name == "m"


def test_large_requests_of_strangers_are_refused(server: Any) -> None:
    for address in (server.grpc, server.rest):
        with (
            Client(address, attempts=1) as client,
            pytest.raises((Unauthenticated, ServingError)) as refused,
        ):
            client.predict("m", {"x": [0.0] * (1 << 20)})
        assert isinstance(refused.value, Unauthenticated), refused.value


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_shows_its_token(server: Any, protocol: str) -> None:
    address = getattr(server, protocol)

    async def ask() -> Any:
        async with AsyncClient(address, token=lambda: SECRETS["predict"]) as client:
            return await client.predict("m", {"x": [2.0]})

    with Client(address, token=SECRETS["predict"]) as client:
        assert client.predict("m", {"x": [2.0]})["y"].tolist() == [3.0]
    assert asyncio.run(ask())["y"].tolist() == [3.0]
    with Client(address) as client, pytest.raises(Unauthenticated):
        client.predict("m", {"x": [2.0]})


def servable(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "servable", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_commands_show_their_token(server: Any) -> None:
    with_option = servable(
        *("predict", "m", "--input", "x=[2.0]", "--address", server.grpc),
        *("--token", SECRETS["predict"]),
    )
    with_environment = servable(
        *("models", "list", "--address", server.grpc), SERVABLE_TOKEN=SECRETS["admin"]
    )
    without = servable("status", "m", "--address", server.rest)

    assert with_option.returncode == 0, with_option.stderr
    assert with_environment.returncode == 0, with_environment.stderr
    assert without.returncode == 1
    assert "UNAUTHENTICATED: The request has no bearer token" in without.stderr


def test_refusals_are_counted(server: Any) -> None:
    fetched(server, ("GET", "/v1/models/m", ""), None)
    page = fetched(server, ("GET", "/metrics", ""), SECRETS["metrics"]).text
    counted = dict(
        line.rsplit(" ", 1)
        for line in page.splitlines()
        if line.startswith("servable_authorization_refusals_total{")
    )

    assert int(counted['servable_authorization_refusals_total{reason="missing"}']) > 0


def test_no_secret_is_in_the_log(server: Any) -> None:
    fetched(server, ("GET", "/v1/models/m", ""), SECRETS["status"])
    hashes = [hashlib.sha256(s.encode()).hexdigest() for s in SECRETS.values()]

    assert not [s for s in (*SECRETS.values(), *hashes) if s in server.log()]


def test_an_administrator_may_come_from_elsewhere(
    start: Callable[..., Any], flags: list[str], server: Any
) -> None:
    """A peer that connects to another address of this machine is a remote one."""
    addresses = subprocess.run(
        ["hostname", "-I"], capture_output=True, text=True, check=False
    ).stdout.split()
    own = [a for a in addresses if ":" not in a and not a.startswith("127.")]
    if not own:
        pytest.skip("this machine has no address but loopback")
    unguarded = start(*flags)
    method = "servable.Administration/ListModels"

    code, text = answered(f"{own[0]}:{unguarded.grpc_port}", method, b"", None)
    assert code is grpc.StatusCode.PERMISSION_DENIED, text
    target = f"{own[0]}:{server.grpc_port}"
    assert answered(target, method, b"", SECRETS["admin"])[0] is grpc.StatusCode.OK
    response = httpx.post(
        f"http://{own[0]}:{server.rest_port}/v1/config:reload",
        content="{}",
        headers={"Authorization": f"Bearer {SECRETS['admin']}"},
    )
    assert response.status_code == 400, response.text


def test_tokens_are_replaced_without_a_restart(
    start: Callable[..., Any],
    flags: list[str],
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    tokens = written(tmp_path / "tokens", entry("predict", "PREDICT"))
    server = start(
        *flags, f"--auth_tokens_file={tokens}", "--auth_tokens_poll_wait_seconds=1"
    )
    ask = f"{PREDICTION}/Predict", predict().SerializeToString()

    def is_answered(token: str) -> bool:
        return answered(server.grpc, *ask, token)[0] is grpc.StatusCode.OK

    assert is_answered(SECRETS["predict"])
    beside = written(tmp_path / "b", entry("predict", "PREDICT", secret="n" * 32))
    beside.rename(tokens)
    wait_until(lambda: is_answered("n" * 32), "token that is new")
    assert not is_answered(SECRETS["predict"])
    written(tmp_path / "b", "tokens {").rename(tokens)
    wait_until(lambda: "Tokens stay as they are" in server.log(), "complaint")
    assert is_answered("n" * 32)


def test_a_file_that_makes_no_sense_keeps_the_server_from_starting(
    flags: list[str], tmp_path: Path
) -> None:
    tokens = written(
        tmp_path / "tokens", 'tokens { name: "a" token: "short" scopes: ADMIN }'
    )
    started = servable(
        *("serve", "--port=0", f"--grpc_socket_path={tmp_path / 's'}"),
        *(*flags, f"--auth_tokens_file={tokens}"),
    )

    assert started.returncode != 0
    said = started.stdout + started.stderr
    assert "token a: token must be at least 16 letters" in said
    assert "short" not in said
