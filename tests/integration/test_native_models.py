"""Models in C++, compiled here and served by a real server over both protocols."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.apis import prediction_log_pb2
from servable.client import Client, dtypes, make_tensor_proto
from servable.errors import (
    Code,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ServingError,
)
from servable.platforms.tfrecord import frame

ROOT = Path(__file__).parents[2]
EVERYTHING = "tests/integration/native/everything.cc"
FLAGS = ("-O0", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique")

CONFIG = """
model_config_list {
  config { name: "m" base_path: "%(base)s/m" model_platform: "native"
           model_version_policy { all {} } }
  config { name: "new" base_path: "%(base)s/new" model_platform: "native" }
  config { name: "batched" base_path: "%(base)s/batched" model_platform: "native" }
  config { name: "table" base_path: "%(base)s/table" model_platform: "native" }
  config { name: "nearest" base_path: "%(base)s/nearest" model_platform: "native" }
}
"""
EXAMPLES = [{"x": 0.25, "names": "few", "n": [1, 2, -4]}, {"x": 1.0}]
BATCHING = """
max_batch_size { value: 8 }
batch_timeout_micros { value: 60000000 }
"""


def write_version(path: Path, library: Path, **files: str) -> None:
    """Write a version directory, and rename it into place."""
    made = path.parent.parent / f"{path.parent.name}-{path.name}.tmp"
    made.mkdir(parents=True)
    shutil.copyfile(library, made / "servable.so")
    for name, text in files.items():
        (made / name.replace("_", ".")).write_text(text)
    path.parent.mkdir(exist_ok=True)
    made.rename(path)


@pytest.fixture(scope="module")
def everything(compiled: Callable[..., Path]) -> Path:
    return compiled(EVERYTHING, *FLAGS)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built as their page says."""
    for program in ("cmake", "g++"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    build = tmp_path_factory.mktemp("examples")
    configure = ["cmake", "-S", str(ROOT / "examples/cpp"), "-B", str(build)]
    configure += [f"-Dservable_DIR={ROOT / 'cmake'}", "-DCMAKE_CXX_FLAGS=-Werror"]
    configure += ["-DCMAKE_BUILD_TYPE=Debug"]
    subprocess.run(configure, check=True, stdout=subprocess.PIPE)
    build_all = ["cmake", "--build", str(build), "--parallel", "2"]
    subprocess.run(build_all, check=True, stdout=subprocess.PIPE)
    return build


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def vectors() -> "np.ndarray[Any, Any]":
    return np.random.default_rng(1).standard_normal((1000, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    base: Path,
    everything: Path,
    examples: Path,
    vectors: "np.ndarray[Any, Any]",
) -> Any:
    for name in ("m", "new", "batched"):
        write_version(base / name / "1", everything, two_txt="2")
    write_version(base / "m" / "2", everything, two_txt="3")
    rows = "the\t1\ncat\t\u00fc\n"
    write_version(base / "table" / "1", examples / "table/servable.so", table_tsv=rows)
    index = examples / "nearest/servable.so"
    np.save(examples / "vectors.npy", vectors)
    write_version(base / "nearest" / "1", index, k_txt="5")
    shutil.copyfile(examples / "vectors.npy", base / "nearest" / "1" / "vectors.npy")
    (base / "batched" / "1" / "batching_params.pbtxt").write_text(BATCHING)
    config = base / "models.config"
    config.write_text(CONFIG % {"base": base})
    return start(
        f"--model_config_file={config}",
        "--allow_native_models",
        "--wait_for_models",
        "--max_num_load_retries=0",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--metrics_path=/metrics",
    )


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[Client]:
    with Client(getattr(server, request.param), attempts=1) as made:
        yield made


def status_of(client: Client, model: str, version: int) -> tuple[str, str]:
    """Return the state of a version, and the text of its error."""
    for one in client.status(model):
        if one.version == version:
            return one.state, one.message
    return "", ""


def test_a_model_in_cpp_is_asked_like_any_other(client: Client) -> None:
    answer = client.predict("m", [1.0, 2.0, 5.0], version=1)

    assert answer["y"].tolist() == [2.5, 3.0, 4.5]
    assert client.predict("m", np.empty(0, np.float32))["y"].shape == (0,)


def test_versions_of_one_library_have_nothing_in_common(client: Client) -> None:
    # Both count their runs in a variable of one name.
    def runs(version: int) -> int:
        answer = client.predict("m", [0.0], signature="who", version=version)
        assert answer["version"].tolist() == [version]
        return int(answer["runs"][0])

    before = runs(1), runs(2)

    assert runs(1) == before[0] + 1
    assert runs(1) == before[0] + 2
    assert runs(2) == before[1] + 1


@pytest.mark.parametrize(
    "name",
    [
        *("float32", "float64", "int32", "uint8", "int16", "int8", "complex64"),
        *("int64", "bool", "uint16", "complex128", "float16", "uint32", "uint64"),
        *("string", "bfloat16", "qint8", "int4", "float8_e5m2"),
    ],
)
def test_every_type_goes_in_and_out_in_its_own_bytes(name: str, server: Any) -> None:
    dtype = dtypes.parse(name)
    values = np.array([[[0, 1], [1, 0]]], np.float32)
    given: Any = np.array([[[b"", b"a\0b"]]], object) if name == "string" else values
    proto = make_tensor_proto(given, name)
    with Client(server.grpc, attempts=1) as client:
        answer = client.predict(
            "m", {"x": proto}, signature=f"echo_{dtype.number}", version=1
        )

    echoed = make_tensor_proto(answer["y"], name)
    assert echoed.SerializeToString() == proto.SerializeToString()


def test_classify_regress_and_metadata_are_as_the_signatures_say(
    client: Client,
) -> None:
    found = client.classify("m", EXAMPLES, signature="classify", version=1)
    sums = client.regress("m", EXAMPLES, signature="regress", version=1)

    assert found.labels.tolist() == [["few", "high"], ["low", "high"]]
    assert found.scores.tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert sums.tolist() == [-1.0, 0.0]
    signatures = client.metadata("table").signatures
    assert [str(signature) for signature in signatures.values()] == [
        "serving_default(keys: string[?]) -> found: bool[?], values: string[?]"
    ]


def test_one_run_may_answer_for_several_signatures(server: Any) -> None:
    tasks = {"classify": "classify", "regress": "regress"}
    with Client(server.grpc, attempts=1) as client:
        answer: Any = client.multi_inference("m", EXAMPLES, tasks, version=1)

    assert answer["classify"].labels.tolist() == [["few", "high"], ["low", "high"]]
    assert answer["regress"].tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        pytest.param(-1.0, NotFound, "no such thing", id="an Error of servable"),
        pytest.param(-2.0, Internal, "thrown after an output", id="a std::exception"),
        pytest.param(
            -3.0,
            Internal,
            "something was thrown that is no std::exception",
            id="an int",
        ),
    ],
)
def test_what_a_servable_throws_is_the_status_of_its_request(
    x: float, error: type[ServingError], text: str, client: Client
) -> None:
    with pytest.raises(error) as caught:
        client.predict("m", [x])

    assert caught.value.message == text
    assert client.predict("m", [0.0])["y"].tolist() == [3.0]


def test_what_a_signature_does_not_take_never_reaches_it(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        client.predict("m", {"x": np.zeros((2, 2), np.float32)})


def test_requests_run_together(server: Any) -> None:
    def ask(row: int) -> Any:
        with Client(server.grpc, attempts=1) as client:
            return client.predict("batched", [float(row)], signature="who", timeout=50)

    with ThreadPoolExecutor(8) as threads:  # a batch waits for the last of eight rows
        answers = list(threads.map(ask, range(8)))

    assert [answer["rows"].tolist() for answer in answers] == [[8]] * 8


def test_the_example_table_looks_keys_up(client: Client) -> None:
    answer = client.predict("table", ["cat", "dog", "the"])

    assert answer["found"].tolist() == [True, False, True]
    assert answer["values"].tolist() == ["\u00fc".encode(), b"", b"1"]


def test_the_example_index_finds_the_nearest(
    client: Client, vectors: "np.ndarray[Any, Any]"
) -> None:
    queries = np.random.default_rng(2).standard_normal((7, 8)).astype(np.float32)
    distances = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2)
    expected = np.argsort(distances, axis=1)[:, :5]

    answer = client.predict("nearest", queries)

    assert answer["indices"].tolist() == expected.tolist()
    found = np.take_along_axis(distances, expected, axis=1)
    np.testing.assert_allclose(answer["distances"], found, rtol=1e-5)


def test_the_example_is_tested_without_a_server(examples: Path) -> None:
    subprocess.run([examples / "nearest_test"], check=True)


def test_a_new_version_takes_over_under_load_and_a_bad_one_does_not(
    base: Path,
    server: Any,
    everything: Path,
    compiled: Callable[..., Path],
    wait_until: Callable[..., None],
) -> None:
    """Also what a constructor throws, a file that is no library, and another ABI."""
    stop = threading.Event()
    failures: list[ServingError] = []

    def ask() -> None:
        with Client(server.grpc, attempts=1) as client:
            while not stop.is_set():
                try:
                    client.predict("new", [1.0])
                except ServingError as error:
                    failures.append(error)

    load = threading.Thread(target=ask)
    load.start()
    try:
        with Client(server.rest, attempts=1) as client:
            for version in (2, 3):
                two = str(version + 1)
                write_version(base / "new" / str(version), everything, two_txt=two)
                wait_until(
                    lambda two=two: client.predict("new", [0.0])["y"] == float(two),
                    "new version",
                )
            other = compiled(
                *("tests/integration/native/wrong.c", "-shared", "-fPIC", "-DABI=2"),
                compiler="gcc",
            )
            script = base / "script"
            script.write_text("#!/bin/sh\n")
            for version, library, two, text in (
                (4, everything, "-1", "thrown by a constructor"),
                (5, everything, "x", "two.txt has no number"),
                (6, script, "2", "servable.so is no library"),
                (7, other, "2", "servable.so is of ABI 2"),
            ):
                write_version(base / "new" / str(version), library, two_txt=two)
                wait_until(
                    lambda version=version, text=text: (
                        text in status_of(client, "new", version)[1]
                    ),
                    f"error of version {version}",
                )
                assert client.predict("new", [0.0])["y"] == 4.0
    finally:
        stop.set()
        load.join()

    assert failures == []


def test_files_that_are_replaced_while_they_are_loaded_are_not_noticed(
    base: Path, client: Client
) -> None:
    library = base / "m" / "1" / "servable.so"
    whole = library.read_bytes()

    library.write_bytes(b"\0" * len(whole))
    try:
        assert client.predict("m", [2.0], version=1)["y"].tolist() == [3.0]
    finally:
        library.write_bytes(whole)


def test_metrics_count_them_like_others(server: Any) -> None:
    page = httpx.get(f"{server.rest}/metrics").text

    assert 'model="m"' in page


def test_it_is_warmed_up_by_what_it_brings_along(
    start: Callable[..., Any], everything: Path, tmp_path: Path
) -> None:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.inputs["x"].CopyFrom(make_tensor_proto([0.0], "float32"))
    request.model_spec.signature_name = "who"
    write_version(tmp_path / "m" / "1", everything, two_txt="2")
    extra = tmp_path / "m" / "1" / "assets.extra"
    extra.mkdir()
    record = frame(log.SerializeToString())
    (extra / "tf_serving_warmup_requests").write_bytes(record)
    server = start(
        *("--model_name=m", f"--model_base_path={tmp_path / 'm'}"),
        *("--model_platform=native", "--allow_native_models", "--wait_for_models"),
    )

    with Client(server.grpc, attempts=1) as client:
        answer = client.predict("m", [0.0], signature="who")

    assert answer["runs"].tolist() == [2]


def test_a_crash_in_loading_is_the_end_of_a_trial_and_not_of_the_server(
    start: Callable[..., Any],
    everything: Path,
    compiled: Callable[..., Path],
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    crashes = compiled(
        "tests/integration/native/wrong.c", "-shared", "-fPIC", compiler="gcc"
    )
    base = tmp_path / "m"
    write_version(base / "1", everything, two_txt="2")
    server = start(
        *("--model_name=m", f"--model_base_path={base}", "--model_platform=native"),
        *("--allow_native_models", "--wait_for_models", "--canary_load"),
        "--max_num_load_retries=0",
    )
    with Client(server.grpc, attempts=1) as client:
        write_version(base / "2", crashes)  # it misses a file, and aborts
        wait_until(
            lambda: "ended by SIGABRT" in status_of(client, "m", 2)[1], "failed trial"
        )

        assert client.predict("m", [0.0])["y"].tolist() == [2.0]


def test_libraries_in_models_need_leave(
    start: Callable[..., Any], everything: Path, tmp_path: Path
) -> None:
    write_version(tmp_path / "m" / "1", everything, two_txt="2")

    with pytest.raises(AssertionError, match="--allow_native_models allows that"):
        start(
            *("--model_name=m", f"--model_base_path={tmp_path / 'm'}"),
            *("--model_platform=native", "--wait_for_models"),
        )


def test_codes_of_python_and_of_the_header_are_the_same() -> None:
    header = (ROOT / "include/servable/tensor.h").read_text()

    for code in Code:
        assert f"SERVABLE_{code.name} = {code.value}" in header
    assert FailedPrecondition.code is Code.FAILED_PRECONDITION
