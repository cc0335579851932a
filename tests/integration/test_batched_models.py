"""
Batching of models in processes of their own, and by batchers in Python: real processes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import httpx

from servable.apis import prediction_log_pb2
from servable.client import Client, make_tensor_proto
from servable.errors import FailedPrecondition, Internal, ServingError
from servable.platforms import warmup
from servable.platforms.tfrecord import frame

CLIENTS = 8

# Says of each row in how large a run it was, and fails for some values.
MODEL = """
import os
import numpy as np
from servable.platforms.python import Signature, TensorSpec

ROWS = TensorSpec("float32", [None])


class Model:
    def load(self, path):
        pass

    def signatures(self):
        return {
            "serving_default": Signature({"x": ROWS}, {"y": ROWS, "rows": ROWS}),
            "whole": Signature({"x": ROWS}, {"rows": TensorSpec("float32", [])}),
            "texts": Signature(
                {"ids": TensorSpec("float32", [None, None])},
                {"ids": TensorSpec("float32", [None, None]), "rows": ROWS}),
        }

    def run(self, signature_name, inputs):
        (x,) = inputs.values()
        if (x == -1).any():
            raise ValueError("poison")
        if (x == -2).any():
            os._exit(3)
        if signature_name == "whole":
            return {"rows": np.float32(len(x))}
        rows = np.full(len(x), len(x), np.float32)
        return {"y": x * 2, "ids": x, "rows": rows}
"""

WAITING = f"""
max_batch_size {{ value: {CLIENTS} }} num_batch_threads {{ value: 1 }}
batch_timeout_micros {{ value: 60000000 }}
"""
OPTIONS = """
[models.rows]
batcher = "rows"
[models.by_length]
batcher = "by_length"
[models.adaptive]
policy = "adaptive"
[models.refusing]
run_unbatchable_alone = false
"""
MODELS = ("m", "rows", "by_length", "adaptive", "refusing")


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on which batches of eight rows wait for the last of them."""
    folder = tmp_path_factory.mktemp("batched")
    for name in MODELS:
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
    configs = [
        f'config {{ name: "{name}" base_path: "{folder / name}" '
        'model_platform: "python" }'
        for name in MODELS
    ]
    config, parameters, options = (folder / name for name in ("c", "p", "o.toml"))
    config.write_text(f"model_config_list {{ {' '.join(configs)} }}")
    parameters.write_text(WAITING)
    options.write_text(OPTIONS)
    example = Path(__file__).parents[2] / "examples" / "batcher"
    info = folder / "length_batcher-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: l\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[servable.batchers]\nby_length = length_batcher:LengthBatcher\n"
    )
    path = [str(folder), str(example), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        return start(
            "--wait_for_models=true",
            "--allow_python_models",
            f"--model_config_file={config}",
            "--enable_batching",
            f"--batching_parameters_file={parameters}",
            f"--batching_options_file={options}",
        )


def at_once(
    server: Any, model: str, requests: list[Any], signature: str = "serving_default"
) -> list[Any]:
    """Return what clients are answered that ask at the same time, errors included."""

    def ask(request: Any) -> Any:
        with Client(server.grpc, attempts=1) as client:
            try:
                return client.predict(model, request, signature=signature, timeout=50)
            except ServingError as error:
                return error

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(ask, requests))


@pytest.mark.parametrize("model", ["m", "rows"])
def test_a_model_in_python_is_called_once_for_all(server: Any, model: str) -> None:
    answers = at_once(server, model, [[float(number)] for number in range(CLIENTS)])

    assert [answer["y"].tolist() for answer in answers] == [
        [2.0 * number] for number in range(CLIENTS)
    ]
    assert [answer["rows"].tolist() for answer in answers] == [[CLIENTS]] * CLIENTS


@pytest.mark.parametrize("model", ["m", "rows"])
def test_one_that_fails_fails_alone(server: Any, model: str) -> None:
    *others, poison = at_once(server, model, [[1.0]] * (CLIENTS - 1) + [[-1.0]])

    assert isinstance(poison, Internal)
    assert poison.message == "ValueError: poison"
    assert [answer["y"].tolist() for answer in others] == [[2.0]] * (CLIENTS - 1)


def test_one_that_ends_the_process_ends_it_once(server: Any) -> None:
    answers = at_once(server, "m", [[1.0]] * (CLIENTS - 1) + [[-2.0]])

    assert {type(answer) for answer in answers} == {Internal}
    assert len({answer.message for answer in answers}) == 1
    after = at_once(server, "m", [[3.0]] * CLIENTS)
    assert [answer["y"].tolist() for answer in after] == [[6.0]] * CLIENTS


def test_a_signature_whose_tensors_have_no_rows_is_not_batched(server: Any) -> None:
    (answer,) = at_once(server, "m", [[1.0, 2.0]], "whole")
    assert answer["rows"] == 2.0

    refused = at_once(server, "refusing", [[1.0]] * CLIENTS, "whole")
    assert {type(answer) for answer in refused} == {FailedPrecondition}


def test_the_adaptive_policy_needs_nobody_to_wait_for(server: Any) -> None:
    answers = at_once(server, "adaptive", [[float(number)] for number in range(3)])

    assert [answer["y"].tolist() for answer in answers] == [[0.0], [2.0], [4.0]]
    page = httpx.get(f"{server.rest}/metrics").text
    labels = '{model="adaptive",version="1",signature="serving_default"}'
    assert f"servable_batching_rows_total{labels} 3\n" in page
    # More than the process runs at a time would only wait in another place.
    assert f"servable_batching_decided_in_flight{labels} 1\n" in page


def test_the_example_keeps_short_texts_away_from_long_ones(server: Any) -> None:
    short, long = [[1.0]], [[1.0, 2.0, 3.0]]

    answers = at_once(server, "by_length", [short, long] * (CLIENTS // 2), "texts")

    assert [answer["ids"].tolist() for answer in answers] == [short, long] * 4
    assert [answer["rows"].tolist() for answer in answers] == [[4.0]] * CLIENTS


def test_batchers_change_no_answer_of_a_saved_model(
    start: Callable[..., Any], write_version: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = tmp_path / "models" / "m"
    write_version(base / "1")
    parameters, options = tmp_path / "p", tmp_path / "o.toml"
    parameters.write_text(WAITING)
    options.write_text('batcher = "rows"')
    batched = start(
        "--wait_for_models=true",
        "--model_name=m",
        f"--model_base_path={base}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        f"--batching_options_file={options}",
    )
    numbers = np.random.default_rng(7).standard_normal((CLIENTS, 1), np.float32)

    answers = at_once(batched, "m", [row.tolist() for row in numbers])
    texts = at_once(batched, "m", [[b"a" * n] for n in range(CLIENTS)], "echo_STRING")

    expected = numbers / np.float32(2) + np.float32(2)
    assert [answer["y"].tobytes() for answer in answers] == [
        row.tobytes() for row in expected
    ]
    assert [answer["y"].tolist() for answer in texts] == [
        [b"a" * n] for n in range(CLIENTS)
    ]


def test_a_batcher_that_is_not_installed_ends_the_start(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    options = tmp_path / "o.toml"
    options.write_text('batcher = "nobodys"')

    with pytest.raises(AssertionError, match="There is no nobodys among"):
        start(
            f"--model_base_path={tmp_path}",
            "--enable_batching",
            f"--batching_options_file={options}",
        )


PLATFORM = """
platform_configs { key: "tensorflow" value { source_adapter_config {
  [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
    legacy_config {
      enable_model_warmup: true
      batching_parameters {
        max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4
        allowed_batch_sizes: 8 batch_timeout_micros { value: 60000000 }
      }
      model_warmup_options { enable_all_batch_sizes_warmup: %s }
    } } } } }
"""


@pytest.mark.parametrize(
    ("all_sizes", "rows"),
    [
        pytest.param("false", 4, id="as a batch of its own, which waits for nobody"),
        pytest.param("true", 4 + 2 + 8, id="as a batch of each size that is allowed"),
    ],
)
def test_a_warm_up_runs_what_batches_will_run(
    all_sizes: str,
    rows: int,
    start: Callable[..., Any],
    write_version: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    version = write_version(tmp_path / "models" / "m" / "1")
    log = prediction_log_pb2.PredictionLog()
    x = make_tensor_proto([1.0, 2.0, 3.0], "float32").SerializeToString()
    log.predict_log.request.inputs["x"].MergeFromString(x)
    log.predict_log.request.model_spec.name = "m"
    file = version / warmup.FILE
    file.parent.mkdir()
    file.write_bytes(frame(log.SerializeToString()))
    platform, monitoring = tmp_path / "p", tmp_path / "monitoring"
    platform.write_text(PLATFORM % all_sizes)
    monitoring.write_text("prometheus_config { enable: true }")

    server = start(
        "--wait_for_models=true",
        "--model_name=m",
        f"--model_base_path={version.parent}",
        f"--platform_config_file={platform}",
        f"--monitoring_config_file={monitoring}",
    )

    page = httpx.get(f"{server.rest}/monitoring/prometheus/metrics").text
    name = ":tensorflow:serving:batching_session:processed_batch_size_sum{}"
    assert f"{name} {rows}\n" in page


FIXED = """
platform_configs { key: "tensorflow" value { source_adapter_config {
  [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
    legacy_config {
      batching_parameters { max_batch_size { value: 8 } }
      experimental_fixed_input_tensors {
        name: "two:0" tensor { dtype: DT_FLOAT tensor_shape {} float_val: 100 }
      }
    } } } } }
"""


def test_fixed_inputs_are_fed_to_every_run(
    start: Callable[..., Any], write_version: Callable[[Path], Path], tmp_path: Path
) -> None:
    version = write_version(tmp_path / "models" / "m" / "1")
    platform = tmp_path / "p"
    platform.write_text(FIXED)

    server = start(
        "--wait_for_models=true",
        "--model_name=m",
        f"--model_base_path={version.parent}",
        f"--platform_config_file={platform}",
    )
    (answer,) = at_once(server, "m", [[1.0, 2.0]])

    assert answer["y"].tolist() == [100.5, 101.0]
