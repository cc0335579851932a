"""Models of ONNX, scikit-learn and XGBoost, and what is around a SavedModel."""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.client import Client
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import (
    Code,
    InvalidArgument,
    NotFound,
    ServingError,
)
from servable.platforms.python.platform import WorkerPlatform

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]], np.float32)

TRANSFORM = """
import numpy as np
from servable.errors import InvalidArgument
from servable.platforms.python import Signature, TensorSpec


class Transform:
    threads = 2

    def load(self, path):
        pass

    def signatures(self, of_model):
        y = of_model["serving_default"].outputs["y"]
        return {"serving_default": Signature(
            {"text": TensorSpec("string", [None])},
            {"rounded": TensorSpec("int64", [None]), "y": y})}

    def preprocess(self, signature_name, inputs):
        try:
            return {"x": np.array([float(t) for t in inputs["text"]], np.float32)}
        except ValueError as error:
            raise InvalidArgument(str(error)) from None

    def postprocess(self, signature_name, outputs):
        return {"rounded": np.rint(outputs["y"]).astype(np.int64), "y": outputs["y"]}
"""


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def write_onnx(directory: Path) -> None:
    """y = x @ [[1], [2]] + 1, and the texts as they came."""
    from onnx import TensorProto, checker, helper, save  # noqa: PLC0415

    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [1.0, 2.0])
    one = helper.make_tensor("b", TensorProto.FLOAT, [1], [1.0])
    floats, texts = TensorProto.FLOAT, TensorProto.STRING
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "b"], ["y"]),
            helper.make_node("Identity", ["t"], ["same"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", floats, ["n", 2]),
            helper.make_tensor_value_info("t", texts, ["n"]),
        ],
        [
            helper.make_tensor_value_info("y", floats, ["n", 1]),
            helper.make_tensor_value_info("same", texts, ["n"]),
        ],
        [weights, one],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    checker.check_model(model)
    save(model, str(directory / "model.onnx"))


def write_sklearn(directory: Path) -> None:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    from skops import io  # noqa: PLC0415

    fitted = make_pipeline(StandardScaler(), LogisticRegression())
    fitted.fit(X, ["a", "a", "b", "b"])
    io.dump(fitted, directory / "model.skops")


def write_sklearn_regressor(directory: Path) -> None:
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415
    from skops import io  # noqa: PLC0415

    io.dump(LinearRegression().fit(X, X[:, 0] * 2), directory / "model.skops")


def write_sklearn_untrusted(directory: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer  # noqa: PLC0415
    from skops import io  # noqa: PLC0415

    made = FunctionTransformer(os.path.join).fit(X)
    io.dump(made, directory / "model.skops")


def write_xgboost(directory: Path, name: str, objective: str, labels: Any) -> None:
    import xgboost  # noqa: PLC0415

    parameters: dict[str, Any] = {
        "objective": objective,
        "min_child_weight": 0,
        "nthread": 1,
    }
    if objective.startswith("multi"):
        parameters["num_class"] = 3
    data = xgboost.DMatrix(X, np.array(labels))
    xgboost.train(parameters, data, 5).save_model(directory / name)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "onnx": ("onnx", write_onnx),
    "classifier": ("sklearn", write_sklearn),
    "regressor": ("sklearn", write_sklearn_regressor),
    "boosted": (
        "xgboost",
        lambda d: write_xgboost(d, "model.json", "binary:logistic", [0, 0, 1, 1]),
    ),
    "classes": (
        "xgboost",
        lambda d: write_xgboost(d, "model.ubj", "multi:softprob", [0, 1, 2, 2]),
    ),
    "boosted_values": (
        "xgboost",
        lambda d: write_xgboost(d, "model.ubj", "reg:squarederror", [0, 1, 2, 3]),
    ),
}
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "sklearn": ("skops", "sklearn"),
    "xgboost": ("xgboost",),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Return what can be made here, by name: platform and base path."""
    base = tmp_path_factory.mktemp("models")
    made = {}
    for name, (platform, write) in WRITERS.items():
        if all(map(importlib.util.find_spec, PACKAGES[platform])):
            (base / name / "1").mkdir(parents=True)
            write(base / name / "1")
            made[name] = (platform, base / name)
    return made


@pytest.fixture(scope="module")
def server(
    models: dict[str, tuple[str, Path]],
    start: Callable[..., Any],
    wait_until: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "{platform}" }} '
        for name, (platform, path) in models.items()
    )
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(f"model_config_list {{ {listed} }}")
    server = start(f"--model_config_file={config}")
    for name in models:  # each may take long, with what it imports
        wait_until(functools.partial(is_available, server, name), name)
    return server


def is_available(server: Any, name: str) -> bool:
    with Client(server.grpc) as client:
        try:
            return any(v.state == "AVAILABLE" for v in client.status(name))
        except NotFound:
            return False


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[Client]:
    with Client(getattr(server, request.param), attempts=1) as made:
        yield made


def signatures(client: Client, model: str) -> list[str]:
    return [str(signature) for signature in client.metadata(model).signatures.values()]


@needs("onnx", "onnxruntime")
def test_onnx_graphs_are_served_with_the_signature_of_the_graph(client: Client) -> None:
    assert signatures(client, "onnx") == [
        "serving_default(t: string[?], x: float32[?, 2]) -> "
        "same: string[?], y: float32[?, 1]"
    ]

    answer = client.predict("onnx", {"x": X, "t": ["a", "ü", "", "d"]})

    assert answer["y"].tolist() == [[3], [2], [7], [6]]
    assert [text.decode() for text in answer["same"]] == ["a", "ü", "", "d"]


@needs("onnx", "onnxruntime")
def test_what_onnx_runtime_refuses_is_an_invalid_argument(server: Any) -> None:
    with Client(server.grpc) as client, pytest.raises(InvalidArgument):
        client.predict("onnx", {"x": X[:1], "t": np.array([b"\xff"], object)})


@needs("sklearn", "skops")
def test_classifiers_of_scikit_learn_predict_and_classify(client: Client) -> None:
    assert signatures(client, "classifier") == [
        "classify(inputs: string[?]) -> classes: string[?, 2], scores: float32[?, 2]",
        "serving_default(x: float32[?, 2]) -> label: string[?], scores: float32[?, 2]",
    ]

    answer = client.predict("classifier", X)
    found = client.classify("classifier", [{"x": X[0]}], signature="classify")

    assert answer["label"].tolist() == [b"a", b"a", b"b", b"b"]
    assert found.labels.tolist() == [["a", "b"]]
    np.testing.assert_allclose(found.scores, answer["scores"][:1], rtol=1e-6)


@needs("sklearn", "skops")
def test_regressors_of_scikit_learn_predict_and_regress(client: Client) -> None:
    values = client.predict("regressor", X)["value"]
    regressed = client.regress("regressor", [{"x": X[3]}], signature="regress")

    np.testing.assert_allclose(values, X[:, 0] * 2, atol=1e-5)
    np.testing.assert_allclose(regressed, [6], atol=1e-5)


@needs("sklearn", "skops")
def test_what_an_estimator_refuses_is_an_invalid_argument(server: Any) -> None:
    with Client(server.grpc) as client, pytest.raises(InvalidArgument, match="NaN"):
        client.predict("regressor", np.full((1, 2), np.nan, np.float32))


@needs("xgboost")
def test_boosters_predict_classify_and_regress(client: Client) -> None:
    boosted = client.predict("boosted", X)["prediction"]
    classes = client.predict("classes", X)["prediction"]
    found = client.classify("boosted", [{"x": X[3]}], signature="classify")
    regressed = client.regress("boosted_values", [{"x": X[3]}], signature="regress")

    assert (boosted > 0.5).tolist() == [False, False, True, True]
    assert classes.argmax(axis=1).tolist()[2:] == [2, 2]
    assert found.labels.tolist() == [["0", "1"]]
    np.testing.assert_allclose(found.scores[0, 1], boosted[3], rtol=1e-6)
    assert regressed.shape == (1,)


def loading_error(platform: str, directory: Path) -> tuple[Code, str]:
    model = {"onnx": "OnnxModel", "sklearn": "SklearnModel", "xgboost": "XGBoostModel"}
    worker = WorkerPlatform(
        platform, f"servable.platforms.{platform}:{model[platform]}", 60
    )
    loader = worker.loader(ServableId("m", 1), StoragePath(str(directory)))
    with pytest.raises(ServingError) as caught:
        loader.load()
    return caught.value.code, caught.value.message


@needs("sklearn", "skops")
def test_types_that_nobody_trusts_are_refused_by_name(tmp_path: Path) -> None:
    write_sklearn_untrusted(tmp_path)

    code, message = loading_error("sklearn", tmp_path)

    assert code is Code.PERMISSION_DENIED
    assert message.startswith(
        "model.skops has types that skops does not trust: posixpath.join; "
    )


@pytest.mark.parametrize(
    ("platform", "file"),
    [
        pytest.param("onnx", "model.onnx", marks=needs("onnxruntime")),
        pytest.param("sklearn", "model.skops", marks=needs("skops")),
        pytest.param("xgboost", "model.json", marks=needs("xgboost")),
    ],
)
def test_a_broken_file_is_refused_by_its_name(
    platform: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"this is none")

    code, message = loading_error(platform, tmp_path)

    assert code is Code.INVALID_ARGUMENT
    assert message.startswith(f"{file} cannot be ")


@pytest.mark.parametrize(
    ("platform", "file"),
    [("onnx", "model.onnx"), ("sklearn", "model.skops"), ("xgboost", "model.json")],
)
def test_a_missing_file_is_named(platform: str, file: str, tmp_path: Path) -> None:
    code, message = loading_error(platform, tmp_path)

    assert code is Code.NOT_FOUND
    assert file in message


@needs("tensorflow")
@pytest.mark.tensorflow
@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_steps_in_python_stand_around_a_saved_model(
    api: str,
    tmp_path: Path,
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    wait_until: Callable[..., None],
) -> None:
    version = write_version(tmp_path / "m" / "1")
    (version / "transform.py").write_text(TRANSFORM)
    server = start(
        "--model_name=m", f"--model_base_path={tmp_path / 'm'}", "--allow_python_models"
    )
    wait_until(functools.partial(is_available, server, "m"), "model")
    with Client(getattr(server, api)) as client:
        assert signatures(client, "m") == [
            "serving_default(text: string[?]) -> rounded: int64[?], y: float32[?]"
        ]

        answer = client.predict("m", ["1", "5.2"])

        assert answer["rounded"].tolist() == [2, 5]
        np.testing.assert_allclose(answer["y"], [2.5, 4.6], rtol=1e-6)
        with pytest.raises(InvalidArgument, match="could not convert string to float"):
            client.predict("m", ["x"])


@needs("tensorflow")
@pytest.mark.tensorflow
def test_steps_need_leave(
    tmp_path: Path, start: Callable[..., Any], write_version: Callable[..., Path]
) -> None:
    version = write_version(tmp_path / "m" / "1")
    (version / "transform.py").write_text(TRANSFORM)

    with pytest.raises(AssertionError, match="--allow_python_models allows that"):
        start(
            "--model_name=m",
            f"--model_base_path={tmp_path / 'm'}",
            "--wait_for_models",
            "--max_num_load_retries=0",
        )


COMPOSITE = """
[inputs]
words = { dtype = "string", shape = [-1] }

[outputs]
y = { dtype = "float32", shape = [-1], from = "half.y" }
same = { dtype = "float32", shape = [-1], from = "numbers.value" }

[[parts]]
name = "numbers"
model = "numbers"
inputs = { keys = "words" }

[[parts]]
name = "half"
model = "half"
inputs = { x = "numbers.value" }
"""


@needs("tensorflow")
@pytest.mark.tensorflow
@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_table_feeds_a_saved_model(
    api: str,
    tmp_path: Path,
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    wait_until: Callable[..., None],
) -> None:
    write_version(tmp_path / "half" / "1")
    for name, files in (
        (
            "numbers",
            {
                "table.csv": "word,value\none,1\nfour,4\n",
                "table.toml": '[columns.value]\ndtype = "float32"\n',
            },
        ),
        ("both", {"composite.toml": COMPOSITE}),
    ):
        (tmp_path / name / "1").mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / name / "1" / file).write_text(text)
    platforms = {"half": "tensorflow", "numbers": "hashmap", "both": "composite"}
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" '
        f'model_platform: "{platform}" }} '
        for name, platform in platforms.items()
    )
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {listed} }}")
    server = start(f"--model_config_file={config}")
    for name in platforms:
        wait_until(functools.partial(is_available, server, name), name)

    with Client(getattr(server, api)) as client:
        answer = client.predict("both", ["four", "?", "one"])

    assert answer["same"].tolist() == [4, 0, 1]
    assert answer["y"].tolist() == [4, 2, 2.5]
