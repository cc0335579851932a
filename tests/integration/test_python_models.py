"""Models written in Python, on a real server, and what each of them may do wrong."""

import dataclasses
import logging
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import grpc
import httpx

from servable.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from servable.client import Client, make_tensor_proto
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    ServingError,
)
from servable.platforms.python.platform import WorkerPlatform
from servable.platforms.tfrecord import frame

RUN_LIMIT_S = 3.0
MEMORY_LIMIT_BYTES = 768 << 20
FROM_FILE = WorkerPlatform(
    "python",
    "servable.platforms.python.loading:FromFile",
    RUN_LIMIT_S,
    {"file": "model.py", "class_name": "Model"},
)

# What a model does is told by the first value of a request.
MODEL = """
import os
import numpy as np
from helper import FACTOR
from servable.errors import NotFound
from servable.platforms.python import (
    CLASSIFY, REGRESS, FixedLenFeature, Signature, TensorSpec, parse_examples)

EXAMPLES = {"inputs": TensorSpec("string", [None])}


class Model:
    def load(self, path):
        self.version = int(os.path.basename(path))

    def signatures(self):
        return {
            "serving_default": Signature(
                {"x": TensorSpec("float32", [None])},
                {"y": TensorSpec("float32", [None]), "pid": TensorSpec("int64", [])}),
            "texts": Signature(
                {"t": TensorSpec("string", [None, 2])},
                {"joined": TensorSpec("string", [None])}),
            "classify": Signature(EXAMPLES, {
                "classes": TensorSpec("string", [None, 2]),
                "scores": TensorSpec("float32", [None, 2])}, CLASSIFY),
            "regress": Signature(
                EXAMPLES, {"outputs": TensorSpec("float32", [None])}, REGRESS),
        }

    def run(self, signature_name, inputs):
        return getattr(self, signature_name)(inputs)

    def serving_default(self, inputs):
        x = inputs["x"]
        pid = os.getpid()
        match float(x[0]) if len(x) else 0.0:
            case -1.0:
                return {"y": [1 / 0], "pid": pid}
            case -2.0:
                return {"y": x.astype("float64"), "pid": pid}
            case -3.0:
                return {"y": [[1.0]], "pid": pid}
            case -4.0:
                return {"pid": pid}
            case -5.0:
                return [x]
            case -6.0:
                raise NotFound("no such thing")
            case -7.0:
                sum(range(10**15))  # holds the interpreter's lock
            case -8.0:
                os._exit(3)
            case -9.0:
                raise SystemExit(0)
            case -10.0:
                open(os.path.join(os.sep, "no", "such", "file"))
            case -11.0:
                x[0] = 1
            case -12.0:
                np.ones(1 << 27)  # a gigabyte
        return {"y": x * FACTOR, "pid": pid}

    def texts(self, inputs):
        return {"joined": [a + b"-" + b for a, b in inputs["t"].tolist()]}

    def classify(self, inputs):
        x = parse_examples(inputs["inputs"], {"x": FixedLenFeature("float32")})["x"]
        return {"classes": [["low", "high"]] * len(x),
                "scores": np.stack([1 - x, x], axis=1)}

    def regress(self, inputs):
        x = parse_examples(inputs["inputs"], {"x": FixedLenFeature("float32")})["x"]
        return {"outputs": x + self.version}
"""

CONFIG = """
model_config_list {
  config { name: "m" base_path: "%(base)s/m" model_platform: "python"
           model_version_policy { all {} } }
  config { name: "other" base_path: "%(base)s/other" model_platform: "python" }
}
"""


def write_model(base: Path, name: str, version: int, factor: float) -> None:
    directory = base / name / str(version)
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(MODEL)
    (directory / "helper.py").write_text(f"FACTOR = {factor}\n")


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    wait_until: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    base = tmp_path_factory.mktemp("models")
    write_model(base, "m", 1, 1.5)
    write_model(base, "m", 2, 3)
    write_model(base, "other", 1, 10)
    config = base / "models.config"
    config.write_text(CONFIG % {"base": base})
    server = start(
        f"--model_config_file={config}",
        "--allow_python_models",
        f"--python_run_limit_seconds={RUN_LIMIT_S}",
        f"--python_memory_limit_bytes={MEMORY_LIMIT_BYTES}",
    )
    wait_until(
        lambda: server.is_serving("m", 1)
        and server.is_serving("m", 2)
        and server.is_serving("other"),
        "three models",
    )
    return server


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[Client]:
    with Client(getattr(server, request.param), attempts=1) as made:
        yield made


@pytest.fixture
def other(server: Any) -> Iterator[Client]:
    with Client(server.grpc) as made:
        yield made


def test_two_versions_use_each_its_own_modules(client: Client) -> None:
    answers = [client.predict("m", [2.0, 4.0], version=v) for v in (1, 2)]

    assert answers[0]["y"].tolist() == [3.0, 6.0]
    assert answers[1]["y"].tolist() == [6.0, 12.0]
    assert answers[0]["pid"] != answers[1]["pid"]


def test_an_empty_batch_and_texts_come_through(client: Client) -> None:
    texts = [["a", "b"], ["", "ü"]]

    joined = client.predict("m", {"t": texts}, signature="texts")["joined"]

    assert joined.tolist() == [b"a-b", "-ü".encode()]


def test_classify_and_regress_where_the_signature_says_so(client: Client) -> None:
    examples = [{"x": 0.25}, {"x": 0.75}]

    found = client.classify("m", examples, signature="classify")
    values = client.regress("m", examples, signature="regress", version=2)

    assert found.labels.tolist() == [["low", "high"]] * 2
    assert found.scores.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert values.tolist() == [2.25, 2.75]


def test_metadata_are_the_signatures(client: Client) -> None:
    signatures = client.metadata("m").signatures

    assert sorted(signatures) == ["classify", "regress", "serving_default", "texts"]
    assert str(signatures["texts"]) == ("texts(t: string[?, 2]) -> joined: string[?]")


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        pytest.param(-1, Internal, "ZeroDivisionError: division by zero", id="raises"),
        pytest.param(
            -2,
            Internal,
            "Output y is of type float64; the signature says float32: convert it with "
            '.astype("float32"), or change the signature',
            id="returns another type",
        ),
        pytest.param(
            -3,
            Internal,
            "Output y has shape [1, 1]; the signature says [?]",
            id="returns another shape",
        ),
        pytest.param(-4, Internal, "run returned no y; it has pid", id="forgets"),
        pytest.param(
            -5,
            Internal,
            "run returned list; a dictionary of arrays was expected",
            id="returns a list",
        ),
        pytest.param(-6, NotFound, "no such thing", id="raises an error with a code"),
        pytest.param(-9, Internal, "SystemExit: 0", id="wants to exit"),
        pytest.param(
            -10,
            Internal,
            "FileNotFoundError: No such file or directory",
            id="raises an error with a path in it",
        ),
        pytest.param(
            -11,
            Internal,
            "ValueError: assignment destination is read-only",
            id="writes to its input",
        ),
    ],
)
def test_what_goes_wrong_in_a_run_is_told_to_its_request(
    client: Client, x: float, error: type[ServingError], text: str
) -> None:
    pid = client.predict("m", [0.0])["pid"]

    with pytest.raises(error) as caught:
        client.predict("m", [x])

    assert caught.value.message == text
    assert client.predict("m", [0.0])["pid"] == pid


@pytest.mark.parametrize(
    ("signature", "inputs", "text"),
    [
        (
            "serving_default",
            {"x": np.zeros((1, 1), np.float32)},
            "Input x has shape [1,1]; signature serving_default takes [?]",
        ),
        (
            "serving_default",
            {"x": np.zeros(1, np.int32)},
            "Expects arg[0] to be float but int32 is provided",
        ),
        (
            "texts",
            {"t": np.array([["a", "b", "c"]], object)},
            "Input t has shape [1,3]; signature texts takes [?,2]",
        ),
    ],
)
def test_inputs_that_do_not_fit_never_reach_the_model(
    server: Any, signature: str, inputs: dict[str, Any], text: str
) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(make_tensor_proto(value))

    with (
        grpc.insecure_channel(server.grpc) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == text


def hung_runs(server: Any) -> int:
    page = httpx.get(f"{server.rest}/metrics").text
    line = 'servable_hung_runs_total{model="m",version="2"} '
    return int(page.partition(line)[2].partition("\n")[0])


def test_a_run_that_hangs_holds_up_nobody_else(server: Any, other: Client) -> None:
    before = hung_runs(server)
    pid = other.predict("m", [0.0])["pid"]
    answers: list[BaseException] = []

    def hang() -> None:
        with Client(server.grpc, attempts=1) as client:
            try:
                client.predict("m", [-7.0], timeout=0.5)
            except ServingError as error:
                answers.append(error)

    began = time.monotonic()
    hanging = threading.Thread(target=hang)
    hanging.start()
    for _ in range(20):
        assert other.predict("m", [1.0], version=1)["y"] == [1.5]
        assert other.predict("other", [1.0])["y"] == [10.0]
    hanging.join()

    assert [type(answer) for answer in answers] == [DeadlineExceeded]
    assert time.monotonic() - began < RUN_LIMIT_S
    # What comes next waits for the new process, and is answered by it.
    assert other.predict("m", [0.0], timeout=30)["pid"] != pid
    assert hung_runs(server) == before + 1


def test_a_process_that_dies_is_started_again(other: Client) -> None:
    pid = other.predict("m", [0.0], version=1)["pid"]

    with pytest.raises(Internal) as caught:
        other.predict("m", [-8.0], version=1)

    assert caught.value.message == (
        "The process of the model ended during the run: exit status 3"
    )
    assert other.predict("m", [0.0], version=1, timeout=30)["pid"] != pid


def test_a_process_that_is_killed_is_started_again(
    other: Client, wait_until: Callable[..., None]
) -> None:
    pid = int(other.predict("other", [0.0])["pid"])
    os.kill(pid, signal.SIGKILL)

    def is_answered_by_another() -> bool:
        try:
            return int(other.predict("other", [0.0], timeout=30)["pid"]) != pid
        except Internal:  # it had the request when it was killed
            return False

    wait_until(is_answered_by_another, "answer of a new process")


def test_code_in_models_needs_leave(tmp_path: Path, start: Callable[..., Any]) -> None:
    write_model(tmp_path, "m", 1, 1)

    with pytest.raises(AssertionError, match="--allow_python_models allows that"):
        start(
            f"--model_base_path={tmp_path / 'm'}",
            "--model_platform=python",
            "--wait_for_models",
        )


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        pytest.param("", Code.INVALID_ARGUMENT, "model.py has no class Model", id=""),
        pytest.param(
            "import no_such_module",
            Code.FAILED_PRECONDITION,
            "ModuleNotFoundError: No module named 'no_such_module'",
            id="a module is missing",
        ),
        pytest.param(
            """
            class Model:
                def load(self, path): pass
                def signatures(self): return {"s": 1}
            """,
            Code.INVALID_ARGUMENT,
            "Signature 's' is of type int; servable.platforms.python.Signature was "
            "expected",
            id="signatures are none",
        ),
        pytest.param(
            "import os; os._exit(7)",
            Code.INTERNAL,
            "The process of the model ended while it was loaded: exit status 7",
            id="its process ends",
        ),
        pytest.param(
            """
            class Model:
                threads = 0
                def load(self, path): pass
            """,
            Code.INVALID_ARGUMENT,
            "threads is 0; 1 to 256 is right",
            id="threads are none",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    tmp_path: Path, source: str, code: Code, text: str
) -> None:
    (tmp_path / "model.py").write_text(textwrap.dedent(source))
    loader = FROM_FILE.loader(ServableId("m", 1), StoragePath(str(tmp_path)))

    with pytest.raises(ServingError) as caught:
        loader.load()

    assert (caught.value.code, caught.value.message) == (code, text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.py"]
    with pytest.raises(FailedPrecondition):
        loader.servable()


VOCABULARY = """
from servable.errors import InvalidArgument

class Model:
    def load(self, path):
        {fails}
"""


@pytest.mark.parametrize(
    ("fails", "level", "told"),
    [
        pytest.param(
            "raise InvalidArgument('no words')",
            logging.INFO,
            [],
            id="in words: nothing",
        ),
        pytest.param(
            "self.size = 1 / 0",
            logging.INFO,
            ["model.py, line 6, in load: ZeroDivisionError: division by zero"],
            id="by a fault: where that is, in one line",
        ),
        pytest.param(
            "raise InvalidArgument('no words')",
            logging.DEBUG,
            ["Traceback (most recent call last):"],
            id="to who looks for it: the traceback",
        ),
    ],
)
def test_what_a_load_that_fails_writes(
    fails: str,
    level: int,
    told: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "model.py").write_text(VOCABULARY.format(fails=fails))
    loader = FROM_FILE.loader(ServableId("m", 1), StoragePath(str(tmp_path)))
    with caplog.at_level(level, "servable"), pytest.raises(ServingError):
        loader.load()

    assert capfd.readouterr().err.splitlines()[: len(told) or 1] == told


def test_a_run_that_wants_too_much_memory_fails_alone(client: Client) -> None:
    before = client.predict("m", [2.0], version=1)["pid"]

    with pytest.raises(ResourceExhausted, match="The model ran out of memory"):
        client.predict("m", [-12.0], version=1)

    assert client.predict("m", [2.0], version=1)["pid"] == before


def test_a_model_that_wants_too_much_memory_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "class Model:\n    def load(self, path): self.table = bytearray(1 << 30)\n"
    )
    limited = dataclasses.replace(FROM_FILE, memory_limit_bytes=MEMORY_LIMIT_BYTES)
    loader = limited.loader(ServableId("m", 1), StoragePath(str(tmp_path)))

    with pytest.raises(ResourceExhausted, match="The model ran out of memory"):
        loader.load()


def test_versions_that_come_and_go_leave_nothing_behind(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    write_model(tmp_path, "m", 1, 1)
    path = StoragePath(str(tmp_path / "m" / "1"))

    def load_and_unload() -> None:
        loader = FROM_FILE.loader(ServableId("m", 1), path)
        loader.load()
        loader.unload()

    def left() -> tuple[int, int]:
        files, threads = (Path("/proc/self") / what for what in ("fd", "task"))
        return len([*files.iterdir()]), len([*threads.iterdir()])

    load_and_unload()  # what starts processes stays
    before = left()
    for _ in range(3):
        load_and_unload()

    wait_until(lambda: left() <= before, "end of threads and files")


def test_what_the_server_can_import_its_models_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    write_model(tmp_path, "m", 1, 1)
    (tmp_path / "beside").mkdir()
    (tmp_path / "m" / "1" / "helper.py").rename(tmp_path / "beside" / "helper.py")
    loader = FROM_FILE.loader(
        ServableId("m", 1), StoragePath(str(tmp_path / "m" / "1"))
    )

    loader.load()
    loader.unload()


def write_warmup(directory: Path, x: float) -> None:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(make_tensor_proto([x], "float32"))
    file = directory / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    file.write_bytes(frame(log.SerializeToString()))


def test_a_version_is_warmed_up_before_it_serves(
    tmp_path: Path, start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    for version, x in ((1, 1.0), (2, -6.0)):
        write_model(tmp_path, "m", version, 1)
        write_warmup(tmp_path / "m" / str(version), x)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path / "m"}" '
        'model_platform: "python" model_version_policy { all {} } } }'
    )
    server = start(
        f"--model_config_file={config}",
        "--allow_python_models",
        "--max_num_load_retries=0",
    )

    def states() -> dict[int, tuple[str, Code, str]]:
        with Client(server.grpc) as client:
            found = client.status("m")
        return {v.version: (v.state, v.code, v.message) for v in found}

    wait_until(lambda: server.is_serving("m", 1), "version 1")
    wait_until(lambda: states()[2][0] == "END", "end of version 2")
    assert states() == {
        1: ("AVAILABLE", Code.OK, ""),
        2: ("END", Code.NOT_FOUND, "no such thing"),
    }
    assert server.log().count("Number of warmup records read: 1.") == 1


def test_processes_end_with_a_server_that_is_killed(
    tmp_path: Path, start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    write_model(tmp_path, "m", 1, 1)
    server = start(
        f"--model_base_path={tmp_path / 'm'}",
        "--model_platform=python",
        "--model_name=m",
        "--allow_python_models",
    )
    wait_until(lambda: server.is_serving("m"), "model")
    with Client(server.grpc, attempts=1) as client:
        pid = int(client.predict("m", [0.0])["pid"])
        with pytest.raises(DeadlineExceeded):  # it does not even read signals now
            client.predict("m", [-7.0], timeout=0.2)

    server.process.kill()
    server.process.wait()

    wait_until(lambda: not is_running(pid), "end of the model's process")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
