"""What the metrics pages of a real server show, as Prometheus reads them."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

parser = pytest.importorskip("prometheus_client.parser")

pytest.importorskip("servable._engine")

from servable.apis import (  # noqa: E402
    model_service_pb2_grpc,
    prediction_log_pb2,
)
from servable.apis.model_management_pb2 import ReloadConfigRequest  # noqa: E402
from servable.client import Client, make_tensor_proto  # noqa: E402
from servable.platforms import warmup  # noqa: E402
from servable.platforms.tfrecord import frame  # noqa: E402

THEIRS = "/monitoring/prometheus/metrics"
OURS = "/metrics"

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """
    Return what a page says, as Prometheus's own library reads it.

    It calls counters `…_total`, those of TensorFlow Serving too, which are not.
    """
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def warmup_file(signature_name: str) -> bytes:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "whatever"
    request.model_spec.signature_name = signature_name
    x = make_tensor_proto([1.0], "float32").SerializeToString()
    request.inputs["x"].MergeFromString(x)
    return frame(log.SerializeToString())


def add_warmup(version: Path, signature_name: str = "") -> None:
    file = version / warmup.FILE
    file.parent.mkdir()
    file.write_bytes(warmup_file(signature_name))


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    base = tmp_path_factory.mktemp("models") / "m"
    write_version(base / "1")
    add_warmup(base / "1")
    return base


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], models: Path) -> Any:
    config = models.parent / "monitoring"
    config.write_text("prometheus_config { enable: true }")
    server = start(
        "--model_name=m",
        f"--model_base_path={models}",
        f"--monitoring_config_file={config}",
        "--file_system_poll_wait_seconds=1",
        "--max_num_load_retries=0",
        "--wait_for_models=true",
    )
    with Client(server.grpc, attempts=1) as client:
        for _ in range(3):
            client.predict("m", [1.0])
        client.predict("m", [1.0], signature="echo_FLOAT")
    with httpx.Client(base_url=server.rest) as client:
        body = {"instances": [1.0]}
        assert client.post("/v1/models/m:predict", json=body).status_code == 200
        assert client.post("/v1/models/m:predict", json={}).status_code == 400
        for name in ("nope", "a%22b%5Cc%0A%7D"):
            answer = client.post(f"/v1/models/{name}:predict", json=body)
            assert answer.status_code == 404
    return server


def read(server: Any, path: str) -> Samples:
    answer = httpx.get(server.rest + path)
    assert answer.status_code == 200
    return samples(answer.text)


def test_tensorflow_servings_page_counts_as_it_does(server: Any, models: Path) -> None:
    found = read(server, THEIRS)

    def counted(name: str, **labels: str) -> float | None:
        return found.get(key(f":tensorflow:serving:{name}", **labels))

    latency = "request_latency_count"
    run = "runtime_latency_count"
    path = str(models / "1")
    assert counted("request_count_total", model_name="m", status="OK") == 5
    assert (
        counted("request_count_total", model_name="m", status="INVALID_ARGUMENT") == 1
    )
    assert counted("request_count_total", model_name="nope", status="NOT_FOUND") == 1
    assert counted(latency, model_name="m", API="Predict", entrypoint="GRPC") == 4
    assert counted(latency, model_name="m", API="predict", entrypoint="REST") == 1
    assert counted(run, model_name="m", API="Predict", runtime="TF1") == 5
    assert counted(run, model_name="whatever", API="Predict", runtime="TF1") == 1
    assert counted("model_warmup_records_read_total", model_path=path, status="OK") == 1
    assert counted("model_warmup_latency_count", model_path=path, status="OK") == 1


def test_a_name_that_is_no_label_is_one_all_the_same(server: Any) -> None:
    strange = key(
        ":tensorflow:serving:request_count_total",
        model_name='a"b\\c\n}',
        status="NOT_FOUND",
    )

    assert read(server, THEIRS)[strange] == 1


def test_our_page_tells_versions_signatures_and_stages(server: Any) -> None:
    found = read(server, OURS)

    def of(signature: str, protocol: str, **more: str) -> dict[str, str]:
        labels = {"model": "m", "version": "1", "method": "Predict"}
        return {**labels, "signature": signature, "protocol": protocol, **more}

    def requests(**labels: str) -> float | None:
        return found.get(key("servable_requests_total", **labels))

    def durations(part: str, **labels: str) -> float:
        return found[key(f"servable_request_duration_seconds_{part}", **labels)]

    assert requests(**of("serving_default", "grpc", code="OK")) == 3
    assert requests(**of("echo_FLOAT", "grpc", code="OK")) == 1
    assert requests(**of("serving_default", "rest", code="OK")) == 1
    assert requests(**of("", "rest", code="INVALID_ARGUMENT")) == 1
    stages = [
        of("serving_default", "grpc", stage=stage)
        for stage in ("decode", "queue", "run", "encode")
    ]
    total = of("serving_default", "grpc", stage="total")
    assert durations("count", **total) == 3
    assert durations("bucket", **total, le="+Inf") == 3
    assert all(durations("count", **stage) == 3 for stage in stages)
    parts = sum(durations("sum", **stage) for stage in stages)
    assert 0.0 < parts <= durations("sum", **total)
    assert found[
        key("servable_model_version_state", model="m", version="1", state="AVAILABLE")
    ]


def test_our_page_has_no_label_that_clients_choose(server: Any) -> None:
    labels = {label for _, labels in read(server, OURS) for label in labels}

    assert not {value for _, value in labels} & {"nope", 'a"b\\c\n}', "whatever"}


def test_every_metric_of_our_page_says_what_it_is(server: Any) -> None:
    page = httpx.get(server.rest + OURS).text

    for family in parser.text_string_to_metric_families(page):
        assert family.documentation, family.name
        assert family.type != "unknown", family.name


def test_our_page_tells_of_the_process_and_of_what_is_in_flight(server: Any) -> None:
    found = read(server, OURS)

    assert found[key("process_resident_memory_bytes")] > 10 << 20
    assert found[key("process_cpu_seconds_total")] > 0.0
    assert found[key("servable_requests_in_flight", protocol="grpc")] == 0
    assert found[key("servable_compute_queue_depth")] == 0
    assert found[key("servable_ready")] == 1


def test_probes(server: Any) -> None:
    assert httpx.get(f"{server.rest}/healthz").status_code == 200
    assert httpx.get(f"{server.rest}/readyz").status_code == 200


def test_a_query_is_no_part_of_their_path(server: Any) -> None:
    answer = httpx.get(f"{server.rest}{THEIRS}?x=1")

    assert answer.status_code == 400
    assert answer.text == f"Unexpected path: {THEIRS}?x=1. Should be {THEIRS}"


def test_a_version_that_is_gone_leaves_our_page(
    server: Any,
    models: Path,
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    write_version(models / "2")
    wait_until(lambda: server.is_serving("m", 2), "version 2")

    def versions() -> set[str]:
        labels = {label for _, labels in read(server, OURS) for label in labels}
        return {value for name, value in labels if name == "version" and value} & {
            "1",
            "2",
        }

    wait_until(lambda: versions() == {"2"}, "page without version 1")


def test_a_version_whose_warm_up_fails_is_not_served(
    server: Any,
    models: Path,
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    staged = write_version(models.parent / "staged" / "3")
    add_warmup(staged, "no such signature")
    staged.rename(models / "3")
    text = 'Serving signature key "no such signature" not found.'

    def has_failed() -> bool:
        status = httpx.get(f"{server.rest}/v1/models/m/versions/3")
        return (
            status.status_code == 200
            and text
            in status.json()["model_version_status"][0]["status"]["error_message"]
        )

    wait_until(has_failed, "failed version 3")
    failed = key(
        ":tensorflow:serving:model_warmup_records_read_total",
        model_path=str(models / "3"),
        status=f"FAILED_PRECONDITION: {text}",
    )
    assert read(server, THEIRS)[failed] == 1


def test_a_reload_tells_how_metrics_grew(
    server: Any, models: Path, write_version: Callable[..., Path]
) -> None:
    add_warmup(write_version(models.parent / "another" / "1"), "echo_FLOAT")
    file = models.parent / "another" / "1" / warmup.FILE
    file.write_bytes(file.read_bytes() * 3)
    request = ReloadConfigRequest()
    for name in ("m", "another"):
        request.config.model_config_list.config.add(
            name=name, base_path=str(models.parent / name), model_platform="tensorflow"
        )
    records_read = "/tensorflow/serving/model_warmup_records_read"
    request.metric_names.extend([records_read, "/no/such", "/no/such"])

    with grpc.insecure_channel(server.grpc) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = stub.HandleReloadConfigRequest(request, timeout=60)

    # What is told of is the first series by its labels, which is now the new model's.
    grown = {metric.name: metric.int64_value_increase for metric in answer.metric}
    assert grown == {records_read: 3 - 1, "/no/such": 0}


def test_ml_metadata_is_shown_where_it_is_asked_for(
    start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    version = tmp_path / "m" / "1"
    shutil.copytree(models / "1", version, ignore=shutil.ignore_patterns("assets*"))
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "mlmd_uuid").write_text("some-uuid\n")
    platforms = tmp_path / "platforms"
    platforms.write_text("""
        platform_configs { key: "tensorflow" value { source_adapter_config {
          [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
            legacy_config { enable_session_metadata: true } } } } }
    """)
    monitoring = tmp_path / "monitoring"
    monitoring.write_text("prometheus_config { enable: true }")
    server = start(
        "--model_name=m",
        f"--model_base_path={version.parent}",
        f"--platform_config_file={platforms}",
        f"--monitoring_config_file={monitoring}",
        "--wait_for_models=true",
    )

    name = ":tensorflow:serving:mlmd_map"
    assert read(server, THEIRS)[key(name, model_name="m", version="1")] == 0
    info = key(
        "servable_model_version_mlmd_info", model="m", version="1", uuid="some-uuid"
    )
    assert read(server, OURS)[info] == 1
