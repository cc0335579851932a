"""Requests to a real server, in files, read back, and as the warm-up of a model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

parser = pytest.importorskip("prometheus_client.parser")
pytest.importorskip("servable._engine")

from servable.apis import (  # noqa: E402
    example_pb2,
    inference_pb2,
    prediction_service_pb2_grpc,
)
from servable.client import Client  # noqa: E402
from servable.platforms import prediction_logs, warmup  # noqa: E402
from servable.platforms.prediction_logs import Record  # noqa: E402

KINDS = ["predict", "classify", "regress", "multi_inference"]


def run(*arguments: object, status: int = 0) -> str:
    """Run a command of ours, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "servable", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == status, done
    assert "TensorFlow" not in done.stderr, done
    return done.stdout if not status else done.stderr


def model_config(name: str, base: Path, logging: str) -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" '
        f"{logging} }}"
    )


def logging_config(prefix: Path, rate: float = 1.0) -> str:
    return (
        f'logging_config {{ log_collector_config {{ type: "tfrecord" '
        f'filename_prefix: "{prefix}" }} sampling_config {{ sampling_rate: {rate} }} }}'
    )


@dataclass
class Logged:
    """A server that has logged, and has ended since; what it said of its counts."""

    server: Any
    prefix: Path
    page: str

    @property
    def files(self) -> list[Path]:
        return sorted(self.prefix.parent.glob("*"))

    def records(self) -> Iterator[Record]:
        for file in self.files:
            yield from prediction_logs.read(file, pytest.fail)


def ask_everything(server: Any) -> None:
    example = example_pb2.Example()
    example.features.feature["x"].float_list.value.append(4.0)
    with Client(server.grpc, attempts=1) as client:
        client.predict("m", [1.0, 2.0])
        client.predict("quiet", [1.0])
        client.classify("m", [example], signature="classify")
        client.regress("m", [example, example], signature="regress")
        with pytest.raises(Exception, match="nope"):
            client.predict("m", {"x": [1.0]}, signature="nope")
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.append(example)
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "m", "regress"
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.MultiInference(request, timeout=20)
    with httpx.Client(base_url=server.rest) as rest:
        for verb, body in (
            ("predict", {"instances": [5.0, 6.0]}),
            ("classify", {"signature_name": "classify", "examples": [{"x": 7.0}]}),
            (
                "regress",
                {
                    "signature_name": "regress",
                    "context": {"x": 1.5},
                    "examples": [{"x": 8.0}],
                },
            ),
        ):
            answer = rest.post(f"/v1/models/m:{verb}", json=body)
            assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    base = tmp_path_factory.mktemp("models") / "m"
    write_version(base / "1")
    return base


@pytest.fixture(scope="module")
def logged(
    start: Callable[..., Any], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Logged:
    folder = tmp_path_factory.mktemp("requests")
    prefix = folder / "requests"
    config = models.parent / "models.config"
    config.write_text(
        "model_config_list {"
        + model_config("m", models, logging_config(prefix))
        + model_config("quiet", models, logging_config(prefix, rate=0.0))
        + "}"
    )
    monitoring = models.parent / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    server = start(
        f"--model_config_file={config}",
        f"--monitoring_config_file={monitoring}",
        "--wait_for_models=true",
    )
    ask_everything(server)
    (part,) = folder.glob("*")
    assert part.name.endswith(".tfrecord.part")
    assert part.stat().st_mode & 0o777 == 0o600
    pages = [
        httpx.get(server.rest + path).text
        for path in ("/monitoring/prometheus/metrics", "/metrics")
    ]
    server.process.terminate()
    assert server.process.wait(30) == 0
    return Logged(server, prefix, "\n".join(pages))


def test_every_answered_request_is_in_a_finished_file_when_the_server_has_ended(
    logged: Logged,
) -> None:
    kinds = [record.kind for record in logged.records()]

    assert [file.suffix for file in logged.files] == [".tfrecord"]
    assert kinds == [
        "predict",
        "classify",
        "regress",
        "multi_inference",
        "predict",
        "classify",
        "regress",
    ]


def test_a_record_tells_who_answered_what_and_when(logged: Logged) -> None:
    first = next(logged.records())

    assert (first.model, first.version, first.signature_name) == (
        "m",
        1,
        "serving_default",
    )
    assert first.time > 1_700_000_000
    assert first.log.log_metadata.sampling_config.sampling_rate == 1.0
    assert list(first.log.log_metadata.saved_model_tags) == ["serve"]


def test_requests_and_answers_are_read_back_whatever_they_came_over(
    logged: Logged,
) -> None:
    lines = run("log", "show", "--json", *logged.files).splitlines()
    found = [json.loads(line) for line in lines]

    assert [(one["inputs"], one["outputs"]) for one in found if "inputs" in one] == [
        ({"x": [1.0, 2.0]}, {"y": [2.5, 3.0]}),
        ({"x": [5.0, 6.0]}, {"y": [4.5, 5.0]}),
    ]
    over_grpc, over_rest = [
        [one[part] for one in found if one["kind"] == "regress"]
        for part in ("request", "response")
    ]
    assert len(over_grpc[0]["input"]["example_list"]["examples"]) == 2
    assert "context" in over_grpc[1]["input"]["example_list_with_context"]
    assert over_rest[1]["result"]["regressions"] == [{"value": 6.0}]
    assert over_rest[1]["model_spec"]["version"] == "1"


def test_the_table_shows_what_was_asked_for(logged: Logged) -> None:
    table = run("log", "show", "--kind=regress", "--last=1", *logged.files)

    assert "m  " in table
    assert table.splitlines()[-1].endswith("1 example")
    assert "predict" not in table


def test_metrics_count_what_was_logged_and_not_what_was_not_chosen(
    logged: Logged,
) -> None:
    lines = logged.page.splitlines()

    counted = ':tensorflow:serving:request_log_count{model_name="m",status_code="OK"} 7'
    assert counted in lines
    assert 'servable_request_log_records_total{model="m",code="OK"} 7' in lines
    assert 'request_log_count{model_name="quiet"' not in logged.page


def test_only_so_many_finished_files_are_kept(
    start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    config = tmp_path / "config"
    logging = logging_config(folder / "m")
    config.write_text(f"model_config_list {{ {model_config('m', models, logging)} }}")
    (folder / "m-1-1-0.tfrecord").touch()  # of an earlier server
    others = {folder / "m-1-1-0.tfrecord.part", folder / "m-extra-1-1-0.tfrecord"}
    for other in others:
        other.touch()
    server = start(
        f"--model_config_file={config}",
        "--request_log_file_bytes=1",
        "--request_log_max_files=2",
        "--wait_for_models=true",
    )
    with Client(server.grpc, attempts=1) as client:
        for x in (1.0, 2.0, 3.0, 4.0):
            client.predict("m", [x])
    server.process.terminate()
    assert server.process.wait(30) == 0

    kept = set(folder.glob("*")) - others
    lines = run("log", "show", "--json", *kept).splitlines()
    assert len(kept) == 2
    assert others < set(folder.glob("*"))
    assert sorted(json.loads(line)["inputs"]["x"] for line in lines) == [[3.0], [4.0]]


def test_what_a_killed_server_has_left_is_finished_by_the_next(
    start: Callable[..., Any],
    wait_until: Callable[[Callable[[], bool], str], None],
    models: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {"
        + model_config("m", models, logging_config(folder / "requests"))
        + "}"
    )

    def start_and_ask() -> tuple[Any, Path]:
        before = {*folder.iterdir()}
        server = start(f"--model_config_file={config}", "--wait_for_models")
        with Client(server.grpc, attempts=1) as client:
            client.predict("m", [1.0])
        wait_until(
            lambda: any(p.stat().st_size for p in {*folder.iterdir()} - before),
            "record",
        )
        (part,) = {*folder.iterdir()} - before
        return server, part

    _, written = start_and_ask()
    killed, left = start_and_ask()
    killed.process.kill()
    killed.process.wait()
    whole = left.read_bytes()
    left.write_bytes(whole + whole[:20])  # as if it had been about to write another
    start(f"--model_config_file={config}", "--wait_for_models")
    finished = left.with_suffix("")
    wait_until(finished.exists, "file that is finished")

    assert finished.read_bytes() == whole
    assert [r.kind for r in prediction_logs.read(finished, pytest.fail)] == ["predict"]
    assert {*folder.iterdir()} == {written, finished}


def test_a_file_is_a_warm_up_file_as_it_is(
    logged: Logged, start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models, tmp_path / "m")
    file = tmp_path / "m" / "1" / warmup.FILE
    file.parent.mkdir()
    shutil.copy(logged.files[0], file)
    server = start(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        "--max_num_load_retries=0",
        "--wait_for_models=true",
    )

    assert "Number of warmup records read: 7" in server.log()


@pytest.fixture
def version(models: Path, tmp_path: Path) -> Path:
    shutil.copytree(models / "1", tmp_path / "copy" / "1")
    return tmp_path / "copy" / "1"


def recorded(version: Path) -> list[Record]:
    return list(prediction_logs.read(version / warmup.FILE, pytest.fail))


def test_warm_up_is_recorded_from_logs(logged: Logged, version: Path) -> None:
    said = run("warmup", "record", version, "--log", logged.prefix, "--model=m")

    assert said == f"{version / warmup.FILE}: 7 requests\n"
    assert {record.kind for record in recorded(version)} == set(KINDS)
    assert not recorded(version)[0].log.predict_log.HasField("response")


def test_warm_up_is_recorded_from_a_server_that_runs(
    start: Callable[..., Any], models: Path, version: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    prefix = tmp_path / "live"
    config.write_text(
        f"model_config_list {{ {model_config('m', models, logging_config(prefix))} }}"
    )
    server = start(f"--model_config_file={config}", "--wait_for_models=true")
    command = ["warmup", "record", version, "--log", prefix, "--count=3", "--wait=60"]
    recording = subprocess.Popen(
        [sys.executable, "-m", "servable", *map(str, command)], stdout=subprocess.PIPE
    )
    with Client(server.grpc, attempts=1) as client:
        for x in (1.0, 1.0, 2.0, 3.0, 4.0):
            client.predict("m", [x])
    said, _ = recording.communicate(timeout=100)

    assert recording.returncode == 0
    assert b": 3 requests" in said
    values = [
        r.log.predict_log.request.inputs["x"].float_val for r in recorded(version)
    ]
    contents = [
        r.log.predict_log.request.inputs["x"].tensor_content for r in recorded(version)
    ]
    assert len({(tuple(v), c) for v, c in zip(values, contents, strict=True)}) == 3


def test_warm_up_is_recorded_from_given_inputs(version: Path, tmp_path: Path) -> None:
    run("warmup", "record", version, "--input", "x=[1.0, 2.0]")
    (one,) = recorded(version)
    requests = tmp_path / "requests.json"
    requests.write_text(
        json.dumps(
            [
                {"inputs": {"x": [1.0]}},
                {"signature_name": "echo_STRING", "inputs": {"x": ["a"]}},
            ]
        )
    )
    run("warmup", "record", version, "--requests", requests)

    assert one.signature_name == "serving_default"
    assert [record.signature_name for record in recorded(version)] == [
        "serving_default",
        "echo_STRING",
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--input", "y=1"], "no input 'y'", id="an unknown input"),
        pytest.param(
            ["--input", "x=1", "--signature=nope"],
            "there is no signature 'nope'",
            id="an unknown signature",
        ),
        pytest.param(
            ["--log", "/nonexistent/log"], "does not exist", id="no such folder"
        ),
        pytest.param(
            ["--input", 'x=["no number"]', "--signature=regress"],
            "no input 'x'",
            id="inputs of another signature",
        ),
        pytest.param(
            ["--input", 'inputs=["no example"]', "--signature=regress"],
            "request 0 (predict, signature regress) fails: INVALID_ARGUMENT: ",
            id="a request that the model refuses",
        ),
    ],
)
def test_a_warm_up_that_would_fail_is_not_written(
    version: Path, arguments: list[str], problem: str
) -> None:
    said = run("warmup", "record", version, *arguments, status=1)

    assert problem in said
    assert not (version / warmup.FILE).exists()
    assert list(version.glob("assets.extra/*")) == []


def test_a_file_that_is_cut_off_shows_what_is_whole(
    logged: Logged, tmp_path: Path
) -> None:
    whole = logged.files[0].read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1])
    (tmp_path / "damaged").write_bytes(whole[:20] + b"?" + whole[21:])

    assert len(run("log", "show", "--json", tmp_path / "cut").splitlines()) == 6
    said = run("log", "show", tmp_path / "damaged", status=2)
    assert "corrupted record at 12" in said
