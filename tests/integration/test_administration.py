"""What only those who may administrate can ask over gRPC: sessions and profiles."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("servable._engine")

from servable.apis import session_service_pb2
from servable.client import Client, make_ndarray, make_tensor_proto

SESSION_RUN = "/tensorflow.serving.SessionService/SessionRun"
PROFILER = "/tensorflow.ProfilerService"


@pytest.fixture(scope="module")
def base_path(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    return write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], base_path: Path) -> Any:
    return start(
        *(f"--model_base_path={base_path}", "--model_name=m"),
        *("--wait_for_models=true", "--enable_session_service"),
    )


@pytest.fixture(scope="module")
def limited(start: Callable[..., Any], base_path: Path) -> Any:
    return start(
        *(f"--model_base_path={base_path}", "--model_name=m"),
        *("--wait_for_models=true", "--enable_session_service"),
        "--grpc_channel_arguments=grpc.max_receive_message_length=6000,"
        "grpc.max_send_message_length=3000,grpc.max_concurrent_streams=10,"
        "grpc.keepalive_time_ms=1000,grpc.so_reuseport=0",
    )


def call(server: Any, method: str, message: bytes) -> tuple[grpc.StatusCode, Any]:
    """Return code and answer, or code and text."""
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            ask: Any = channel.unary_unary(method)
            answer = ask(message, timeout=60)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, answer


def request(**fields: Any) -> session_service_pb2.SessionRunRequest:
    feeds = fields.pop("feed", {})
    made = session_service_pb2.SessionRunRequest(**fields)
    made.model_spec.name = "m"
    for name, value in feeds.items():
        feed = made.feed.add(name=name)
        tensor = make_tensor_proto(value, "float32")
        feed.tensor.MergeFromString(tensor.SerializeToString())
    return made


def session_run(server: Any, **fields: Any) -> tuple[grpc.StatusCode, Any]:
    code, answer = call(server, SESSION_RUN, request(**fields).SerializeToString())
    if code is grpc.StatusCode.OK:
        return code, session_service_pb2.SessionRunResponse.FromString(answer)
    return code, answer


def values(response: session_service_pb2.SessionRunResponse) -> dict[str, object]:
    return {
        named.name: make_ndarray(named.tensor).tolist() for named in response.tensor
    }


def test_tensors_inside_a_graph_are_fetched(server: Any) -> None:
    fetches = ["y_halved:0", "half", "y:0"]
    code, response = session_run(server, feed={"x:0": [3.0]}, fetch=fetches)

    assert code is grpc.StatusCode.OK, response
    assert values(response) == {"y_halved:0": [1.5], "half": 0.5, "y:0": [3.5]}
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 1)


def test_tensors_inside_a_graph_are_fed(server: Any) -> None:
    _, response = session_run(server, feed={"y_halved:0": [7.0]}, fetch=["y:0"])

    assert values(response) == {"y:0": [9.0]}


def test_a_target_is_run_and_not_answered(server: Any) -> None:
    code, response = session_run(server, feed={"x:0": [3.0]}, target=["y"])

    assert (code, list(response.tensor)) == (grpc.StatusCode.OK, [])


def test_aliases_are_those_of_the_signature(server: Any) -> None:
    fields: dict[str, Any] = {"feed": {"x": [3.0]}, "tensor_name_is_alias": True}
    _, response = session_run(server, fetch=["y"], **fields)

    assert values(response) == {"y": [3.5]}


def test_what_a_run_did_is_told_where_it_is_asked(server: Any) -> None:
    made = request(feed={"x:0": [3.0]}, fetch=["y:0"])
    made.options.trace_level = 3  # type: ignore[assignment] # FULL_TRACE
    code, answer = call(server, SESSION_RUN, made.SerializeToString())

    assert code is grpc.StatusCode.OK, answer
    response = session_service_pb2.SessionRunResponse.FromString(answer)
    assert response.metadata.step_stats.dev_stats


REFUSED = {
    "nothing to do": (
        {},
        grpc.StatusCode.INVALID_ARGUMENT,
        "Must specify at least one target to fetch or execute.",
    ),
    "an unknown tensor": (
        {"fetch": ["z:0"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "Tensor z:0, specified in either feed_devices or fetch_devices was not found "
        "in the Graph",
    ),
    "an unknown target": (
        {"target": ["z"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "Target z was not found in the Graph",
    ),
    "an unknown alias": (
        {"fetch": ["z"], "tensor_name_is_alias": True},
        grpc.StatusCode.INVALID_ARGUMENT,
        "z is not the alias of an output of the signature",
    ),
    "a placeholder that is not fed": (
        {"fetch": ["y:0"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "You must feed a value for placeholder tensor 'x' with dtype float",
    ),
    "a thread pool of the caller's choice": (
        {"fetch": ["half"], "options": {"inter_op_thread_pool": 1}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "RunOptions.inter_op_thread_pool is not taken here",
    ),
}


@pytest.mark.parametrize(("fields", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_a_session_run_that_makes_no_sense_is_refused(
    server: Any, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    refused, details = session_run(server, **fields)

    assert refused is code
    assert details.startswith(text)


def test_without_its_flag_there_is_no_session_service(
    start: Callable[..., Any], base_path: Path
) -> None:
    server = start(
        *(f"--model_base_path={base_path}", "--model_name=m"),
        *("--wait_for_models=true", "--enable_profiler=false"),
    )

    assert session_run(server, fetch=["half"]) == (grpc.StatusCode.UNIMPLEMENTED, "")
    profiled = call(server, f"{PROFILER}/Profile", b"")
    assert profiled == (grpc.StatusCode.UNIMPLEMENTED, "")


def test_arguments_of_channels_are_limits(limited: Any) -> None:
    large = request(feed={"x:0": [0.0] * 2000}, fetch=["y:0"])
    code, text = call(limited, SESSION_RUN, large.SerializeToString())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("Received message larger than max")

    echo = request(feed={"x:0": [0.0] * 900}, fetch=["y:0"])
    code, text = call(limited, SESSION_RUN, echo.SerializeToString())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("Sent message larger than max")


def test_arguments_without_an_equivalent_are_told_of_once(limited: Any) -> None:
    told = [line for line in limited.log().splitlines() if "has no equivalent" in line]

    assert len(told) == 1
    assert "grpc.so_reuseport" in told[0]


def test_monitor_is_answered_as_tensorflow_answers_it(server: Any) -> None:
    answer = call(server, f"{PROFILER}/Monitor", b"")

    assert answer == (grpc.StatusCode.UNIMPLEMENTED, "unimplemented.")


def test_a_profile_of_another_name_is_not_ended(server: Any) -> None:
    answer = call(server, f"{PROFILER}/Terminate", b"\x0a\x01x")

    assert answer == (grpc.StatusCode.OK, b"")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)
def test_tensorflows_own_client_takes_a_profile_of_what_is_served(
    server: Any, tmp_path: Path
) -> None:
    script = (
        "import sys, tensorflow as tf\n"
        "tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 2000)\n"
    )
    address = f"grpc://{server.grpc}"
    command = [sys.executable, "-c", script, address, str(tmp_path)]
    over = threading.Event()

    def ask() -> None:
        with Client(server.grpc) as client:
            while not over.is_set():
                client.predict("m", [1.0])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    finally:
        over.set()
        asking.join()

    assert done.returncode == 0, done.stderr[-2000:]
    (profile,) = tmp_path.glob("**/*.xplane.pb")
    seen = profile.read_bytes()
    # Runs, on a thread of the server; operations that are cheap are left out in time.
    assert b"SessionRun" in seen
    assert b"servable-" in seen
