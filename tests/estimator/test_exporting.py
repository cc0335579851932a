"""From a checkpoint to a SavedModel: choices, names, failures, what is left behind."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable import estimator  # noqa: E402
from servable.estimator import (  # noqa: E402
    Estimator,
    EstimatorSpec,
    RunConfig,
    export,
    saved_model_export,
)
from servable.estimator.export import (  # noqa: E402
    ClassificationOutput,
    PredictOutput,
    RegressionOutput,
)

pytestmark = pytest.mark.tensorflow


def features_only(features: Any) -> None:
    del features


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: Estimator(cast("Any", None)), "model_fn must be provided", id="none"
        ),
        pytest.param(
            lambda: Estimator(lambda labels: None),  # noqa: ARG005
            "must include features argument.",
            id="a model function without features",
        ),
        pytest.param(
            lambda: Estimator(lambda features, more: None),  # noqa: ARG005
            r"has following not expected args: \['more'\]",
            id="a model function that wants more",
        ),
        pytest.param(
            lambda: Estimator(features_only, params={}),
            "does not include params argument, but params",
            id="params that nobody takes",
        ),
        pytest.param(
            lambda: Estimator(features_only, config=cast("Any", 3)),
            "must be an instance of `RunConfig`, but provided 3.",
            id="a config that is a number",
        ),
        pytest.param(
            lambda: Estimator(features_only, "a", RunConfig("b")),
            "different values. In constructor: 'a', in `RunConfig`: 'b' ",
            id="two directories",
        ),
        pytest.param(
            lambda: RunConfig(save_checkpoints_steps=1, save_checkpoints_secs=1),
            "cannot be both set",
            id="two ways to say when to save",
        ),
        pytest.param(
            lambda: RunConfig(tf_random_seed=1.5),
            "tf_random_seed must be integer.",
            id="half a seed",
        ),
        pytest.param(
            lambda: RunConfig(device_fn=lambda node: "/cpu:0"),  # noqa: ARG005
            'exactly one argument "op".',
            id="a device function of something else",
        ),
        pytest.param(
            lambda: RunConfig(experimental_max_worker_delay_secs=0.5),
            "experimental_max_worker_delay_secs must be an integer if set.",
            id="half a second of delay",
        ),
        pytest.param(
            lambda: RunConfig().replace(save_steps=1),
            "Replacing save_steps is not supported.",
            id="an option that does not exist",
        ),
        pytest.param(
            lambda: Estimator(features_only, warm_start_from=3),
            "warm_start_from must be a string or a WarmStartSettings",
            id="a warm start from a number",
        ),
        pytest.param(
            lambda: type("Mine", (Estimator,), {"train": 1})(features_only),
            r"does override \['train'\]",
            id="a subclass that overrides",
        ),
    ],
)
def test_estimators_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_function_has_to_be_one() -> None:
    with pytest.raises(TypeError, match="unsupported callable"):
        Estimator(cast("Any", 3))


@pytest.mark.parametrize("member", ["latest_checkpoint", "model_fn"])
def test_what_a_subclass_may_override(member: str) -> None:
    type("Mine", (Estimator,), {member: None})(features_only)


def test_a_config_does_not_change() -> None:
    with pytest.raises(AttributeError, match="'model_dir' of 'RunConfig' object has"):
        RunConfig().model_dir = "elsewhere"


def test_arguments_that_a_partial_has_bound_are_not_asked_for() -> None:
    def model_fn(features: Any, labels: Any, mode: str, units: int) -> None:
        del features, labels, mode, units

    Estimator(partial(model_fn, units=3))


@pytest.fixture
def exported(tmp_path: Path, small: SimpleNamespace) -> Callable[..., bytes]:
    """Return what exports a model of the linear checkpoint."""
    small.save_linear(tmp_path / "model")

    def export(
        outputs: Any = None, receive: Any = small.receive_x, model_fn: Any = None
    ) -> bytes:
        model = Estimator(model_fn or small.model_of(outputs), tmp_path / "model")
        return model.export_savedmodel(tmp_path / "exports", receive)

    return export


def test_an_export_that_failed_is_not_in_the_way_of_the_next(
    exported: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([1.5e9, 1.5e9, 1.5e9 + 1])  # the second starts where the first did
    monkeypatch.setattr(
        saved_model_export,
        "time",
        SimpleNamespace(time=lambda: next(seconds), sleep=lambda _: None),
    )
    with pytest.raises(ValueError, match="should return an EstimatorSpec"):
        exported(model_fn=no_spec)

    assert Path(exported().decode()).name == "1500000001"


def test_the_directory_is_named_by_the_time(exported: Callable[..., bytes]) -> None:
    path = Path(exported().decode())

    assert re.fullmatch(r"\d{10}", path.name)
    assert [child.name for child in path.parent.iterdir()] == [path.name]
    assert sorted(child.name for child in path.iterdir()) == [
        "saved_model.pb",
        "variables",
    ]


def test_the_model_answers_as_its_checkpoint(
    exported: Callable[..., bytes], small: SimpleNamespace
) -> None:
    answers = small.ask(exported(), {"x": small.x})

    np.testing.assert_allclose(answers["y"], small.x @ small.kernel)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param(
            lambda y: {"head": PredictOutput({"y": y})},
            {"head", "serving_default"},
            id="one head under two names",
        ),
        pytest.param(
            lambda y: {None: PredictOutput({"y": y})},
            {"None", "serving_default"},
            id="a head without a name",
        ),
        pytest.param(
            lambda y: {
                "serving_default": ClassificationOutput(scores=y),
                "predict": PredictOutput(y),
            },
            {"predict"},
            id="numbers cannot be classified, and nothing takes the default's place",
        ),
        pytest.param(
            lambda y: {"a": RegressionOutput(tf.cast(y, tf.float64))},
            set(),
            id="values of double precision cannot be served",
        ),
    ],
)
def test_signature_names(
    exported: Callable[..., bytes],
    small: SimpleNamespace,
    outputs: Callable[[Any], Any],
    expected: set[str],
) -> None:
    assert set(small.signatures_of(exported(outputs))) == expected


def test_alternatives_make_signatures_of_their_own(
    exported: Callable[..., bytes], small: SimpleNamespace
) -> None:
    def receive() -> Any:
        examples = tf.placeholder(tf.string, [None], name="examples")
        x = tf.parse_example(examples, {"x": tf.FixedLenFeature([4], tf.float32)})["x"]
        return export.ServingInputReceiver({"x": x}, {"e": examples}, {"raw": {"x": x}})

    path = exported(receive=receive)

    assert set(small.signatures_of(path)) == {"serving_default", "raw:serving_default"}
    answers = small.ask(path, {"x": small.x}, "raw:serving_default")
    np.testing.assert_allclose(answers["y"], small.x @ small.kernel)


def test_what_needs_a_placeholder_that_nobody_feeds_is_left_out(
    exported: Callable[..., bytes],
    small: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def outputs(y: Any) -> Any:
        more = tf.placeholder(tf.float32, [], name="nobody_feeds_this")
        return {"serving_default": PredictOutput(y), "more": PredictOutput(y + more)}

    with caplog.at_level("INFO", "servable.estimator"):
        path = exported(outputs)

    assert set(small.signatures_of(path)) == {"serving_default"}
    assert "nobody_feeds_this" in caplog.text


def test_what_only_waits_for_a_placeholder_stays(
    exported: Callable[..., bytes], small: SimpleNamespace
) -> None:
    def outputs(y: Any) -> Any:
        with tf.control_dependencies([tf.placeholder(tf.float32, [])]):
            return {"waits": PredictOutput(tf.identity(y))}

    path = exported(outputs)

    assert set(small.signatures_of(path)) == {"waits", "serving_default"}


def test_a_receiver_of_another_class_may_have_a_single_tensor(
    exported: Callable[..., bytes], small: SimpleNamespace
) -> None:
    def receive() -> Any:
        x = tf.placeholder(tf.float32, [None, 4])
        return SimpleNamespace(features={"x": x}, receiver_tensors=x)

    path = exported(receive=receive)

    assert list(small.signatures_of(path)["serving_default"].inputs) == ["input"]


def test_a_specification_of_another_mode_has_nothing_to_serve(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    small.save_linear(tmp_path / "model")

    def model_fn(features: Any, labels: Any, mode: str) -> Any:
        del labels, mode
        y = small.linear(features)
        return EstimatorSpec("eval", y, tf.reduce_sum(y))

    model = Estimator(model_fn, tmp_path / "model")
    path = model.export_savedmodel(tmp_path / "exports", small.receive_x)

    assert small.signatures_of(path) == {}


def test_there_has_to_be_somewhere_to_export_to(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    small.save_linear(tmp_path / "model")
    model = Estimator(small.model_of(), tmp_path / "model")

    with pytest.raises(TypeError, match="Expected binary or unicode string, got None"):
        model.export_savedmodel(None, small.receive_x)


def test_the_newest_checkpoint_is_exported_unless_another_is_named(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    old = small.save_linear(tmp_path / "model", step=1)
    small.save_linear(tmp_path / "model", step=3)
    model = Estimator(small.model_of(), tmp_path / "model")

    newest = model.export_savedmodel(tmp_path / "a", small.receive_x)
    older = model.export_savedmodel(
        tmp_path / "b", small.receive_x, checkpoint_path=old
    )

    for path, step in ((newest, 3), (older, 1)):
        answers = small.ask(path, {"x": small.x})
        np.testing.assert_allclose(answers["y"], small.x @ small.kernel * step)


def test_a_checkpoint_to_start_from_stands_in(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    small.save_linear(tmp_path / "elsewhere")
    model = Estimator(
        small.model_of(), tmp_path / "new", warm_start_from=tmp_path / "elsewhere"
    )

    path = model.export_savedmodel(tmp_path / "a", small.receive_x)

    answers = small.ask(path, {"x": small.x})
    np.testing.assert_allclose(answers["y"], small.x @ small.kernel)


def test_nothing_is_made_without_a_checkpoint(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    model = Estimator(small.model_of(), tmp_path / "model")

    with pytest.raises(ValueError, match=r"Couldn't find trained model at .*/model"):
        model.export_savedmodel(tmp_path / "exports", small.receive_x)

    assert list(tmp_path.iterdir()) == []


def missing_variable(features: Any, labels: Any, mode: str) -> Any:
    del labels
    more = tf.get_variable("more", [2])
    return EstimatorSpec(mode, predictions={"y": features["x"][:, :2] + more})


def other_shape(features: Any, labels: Any, mode: str) -> Any:
    del labels
    kernel = tf.get_variable("kernel", [4, 3])
    return EstimatorSpec(mode, predictions={"y": tf.matmul(features["x"], kernel)})


def no_spec(features: Any, labels: Any, mode: str) -> Any:
    del labels, mode
    return features


@pytest.mark.parametrize(
    ("model_fn", "error", "message"),
    [
        pytest.param(
            missing_variable,
            ValueError,
            "Could not load all requested variables from checkpoint.",
            id="a variable that the checkpoint lacks",
        ),
        pytest.param(
            other_shape,
            tf.errors.InvalidArgumentError,
            "kernel",
            id="a variable that has another shape there",
        ),
        pytest.param(
            no_spec,
            ValueError,
            "model_fn should return an EstimatorSpec.",
            id="a model function that returns something else",
        ),
    ],
)
def test_no_version_is_seen_of_an_export_that_failed(
    exported: Callable[..., bytes],
    tmp_path: Path,
    model_fn: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        exported(model_fn=model_fn)

    (left,) = (tmp_path / "exports").iterdir()
    assert re.fullmatch(r"temp-\d{10}", left.name)


def test_extra_files_go_along(tmp_path: Path, small: SimpleNamespace) -> None:
    small.save_linear(tmp_path / "model")
    (tmp_path / "notes").write_text("read me")
    model = Estimator(small.model_of(), tmp_path / "model")

    path = model.export_saved_model(
        tmp_path / "exports",
        small.receive_x,
        {"docs/notes.txt": str(tmp_path / "notes")},
    )

    extra = Path(path.decode(), "assets.extra", "docs", "notes.txt")
    assert extra.read_text() == "read me"


@pytest.mark.parametrize("destination", ["../out", "/tmp/out", ".."])  # noqa: S108
def test_extra_files_stay_inside(
    tmp_path: Path, small: SimpleNamespace, destination: str
) -> None:
    small.save_linear(tmp_path / "model")
    model = Estimator(small.model_of(), tmp_path / "model")

    with pytest.raises(ValueError, match="not inside of the exported model"):
        model.export_saved_model(
            tmp_path / "exports", small.receive_x, {destination: __file__}
        )


def test_each_mode_gets_a_meta_graph(tmp_path: Path, small: SimpleNamespace) -> None:
    small.save_linear(tmp_path / "model")

    def model_fn(features: Any, labels: Any, mode: str) -> Any:
        y = small.linear(features)
        loss = tf.reduce_sum(y) if labels is None else tf.reduce_sum(y - labels["l"])
        metrics = {"mean": tf.metrics.mean(y)}
        return EstimatorSpec(mode, y, loss, tf.no_op(), metrics)

    supervised = estimator.experimental.build_raw_supervised_input_receiver_fn(
        {"x": tf.placeholder(tf.float32, [None, 4], name="x")},
        {"l": tf.placeholder(tf.float32, [None, 2], name="l")},
    )
    path = Estimator(model_fn, tmp_path / "model").experimental_export_all_saved_models(
        tmp_path / "exports",
        {"infer": small.receive_x, "eval": supervised, "train": supervised},
    )

    with tf.Session() as session:
        for tag, name in (("train", "train"), ("eval", "eval"), ("serve", None)):
            loaded = tf.saved_model.loader.load(session, [tag], path.decode())
            assert list(loaded.signature_def) == [name or "serving_default"]


def test_variables_of_a_checkpoint(tmp_path: Path, small: SimpleNamespace) -> None:
    small.save_linear(tmp_path / "model")
    model = Estimator(small.model_of(), tmp_path / "model")

    assert model.get_variable_names() == ["global_step", "kernel"]
    np.testing.assert_array_equal(model.get_variable_value("kernel"), small.kernel)
