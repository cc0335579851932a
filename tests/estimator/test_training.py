"""Training, evaluating, asking and exporting, in one process."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.estimator import (  # noqa: E402
    BestExporter,
    Estimator,
    EstimatorSpec,
    EvalSpec,
    FinalExporter,
    LatestExporter,
    ModeKeys,
    RunConfig,
    TrainSpec,
    inputs,
    train_and_evaluate,
)

pytestmark = pytest.mark.tensorflow
Y = np.array([[1.0], [2.0]], np.float32)


def model_fn(features: Any, labels: Any, mode: str, params: Any) -> Any:
    w = tf.get_variable("w", [4, 1], initializer=tf.zeros_initializer())
    y = tf.matmul(features["x"], w)
    if mode == ModeKeys.PREDICT:
        return EstimatorSpec(mode, predictions={"y": y})
    loss = tf.losses.mean_squared_error(labels, y)
    optimizer = tf.train.GradientDescentOptimizer(params["rate"])
    train_op = optimizer.minimize(loss, tf.train.get_global_step())
    error = tf.metrics.mean_absolute_error(labels, y)
    return EstimatorSpec(
        mode, {"y": y}, loss, train_op, eval_metric_ops={"error": error}
    )


@pytest.fixture
def input_fn(small: SimpleNamespace) -> Callable[..., Any]:
    def input_fn() -> Any:
        return tf.data.Dataset.from_tensor_slices(({"x": small.x}, Y)).repeat().batch(2)

    return input_fn


@pytest.fixture
def model(tmp_path: Path) -> Estimator:
    return Estimator(model_fn, tmp_path / "model", params={"rate": 0.01})


def test_steps_add_up_and_the_loss_falls(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    before = model.train(input_fn, steps=1).evaluate(input_fn, steps=1)
    after = model.train(input_fn, max_steps=20).evaluate(input_fn, steps=1)

    assert (before["global_step"], after["global_step"]) == (1, 20)
    assert after["loss"] < before["loss"]
    assert sorted(after) == ["error", "global_step", "loss"]


def test_training_beyond_what_is_done_does_nothing(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    model.train(input_fn, steps=3)

    model.train(input_fn, max_steps=2)

    assert model.get_variable_value("global_step") == 3


def test_training_is_gradient_descent(
    model: Estimator, input_fn: Callable[..., Any], small: SimpleNamespace
) -> None:
    model.train(input_fn, steps=1)

    gradient = -2 * small.x.T @ Y / 2
    np.testing.assert_allclose(
        model.get_variable_value("w"), -0.01 * gradient, rtol=1e-5
    )


def test_predictions_come_one_by_one_and_as_exported(
    model: Estimator,
    input_fn: Callable[..., Any],
    small: SimpleNamespace,
    tmp_path: Path,
) -> None:
    model.train(input_fn, steps=2)
    asked = inputs.numpy_input_fn({"x": small.x}, shuffle=False)

    predictions = list(model.predict(asked))

    path = model.export_savedmodel(tmp_path / "exports", small.receive_x)
    answers = small.ask(path, {"x": small.x})
    np.testing.assert_allclose([p["y"] for p in predictions], answers["y"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"steps": 1, "max_steps": 1}, "both steps and max_steps", id="both"
        ),
        pytest.param({"steps": 0}, "Must specify steps > 0, given: 0", id="no step"),
    ],
)
def test_steps_that_make_no_sense(
    model: Estimator, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.train(lambda: None, **arguments)


def test_exporters_get_their_turn(
    model: Estimator, input_fn: Callable[..., Any], small: SimpleNamespace
) -> None:
    result, made = train_and_evaluate(
        model,
        TrainSpec(input_fn, max_steps=4),
        EvalSpec(
            input_fn,
            steps=1,
            exporters=[
                LatestExporter("latest", small.receive_x),
                FinalExporter("final", small.receive_x),
                BestExporter("best", small.receive_x),
            ],
        ),
    )

    assert result is not None
    assert result["global_step"] == 4
    folders = [Path(path.decode()).parent.name for path in made or [] if path]
    assert folders == ["latest", "final", "best"]


def test_checkpoints_in_between_are_evaluated(
    tmp_path: Path, input_fn: Callable[..., Any], small: SimpleNamespace
) -> None:
    config = RunConfig(save_checkpoints_steps=2)
    model = Estimator(model_fn, tmp_path / "model", config, {"rate": 0.01})
    seen = []

    class Recorder(FinalExporter):
        def export(self, *args: Any) -> Any:
            seen.append((int(args[3]["global_step"]), args[4]))

    train_and_evaluate(
        model,
        TrainSpec(input_fn, max_steps=4),
        EvalSpec(
            input_fn,
            steps=1,
            throttle_secs=0,
            exporters=Recorder("seen", small.receive_x),
        ),
    )

    assert seen[-1] == (4, True)
    assert [step for step, final in seen if not final] != []


def test_the_first_checkpoint_after_the_start_is_evaluated_at_once(
    tmp_path: Path, input_fn: Callable[..., Any], small: SimpleNamespace
) -> None:
    config = RunConfig(save_checkpoints_steps=2)
    model = Estimator(model_fn, tmp_path / "model", config, {"rate": 0.01})
    exporter = LatestExporter("latest", small.receive_x)

    train_and_evaluate(
        model,
        TrainSpec(input_fn, max_steps=6),
        EvalSpec(input_fn, steps=1, exporters=exporter, throttle_secs=1e6),
    )

    exports = tmp_path / "model" / "export" / "latest"
    assert len(list(exports.iterdir())) == 2  # of step 2, and of the last


def test_what_was_trained_before_is_not_evaluated_again(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    model.train(input_fn, steps=2)

    made = train_and_evaluate(
        model, TrainSpec(input_fn, max_steps=2), EvalSpec(input_fn, steps=1)
    )

    assert made == (None, None)


def test_the_chief_saves_before_the_hooks_of_the_model_run(
    tmp_path: Path, input_fn: Callable[..., Any]
) -> None:
    order = []

    class Hook(tf.train.SessionRunHook):  # type: ignore[misc,name-defined]  # untyped
        def begin(self) -> None:
            order.append("hook")

    class Listener(tf.train.CheckpointSaverListener):  # type: ignore[misc,name-defined]  # untyped
        def begin(self) -> None:
            order.append("listener")

    def with_hook(features: Any, labels: Any, mode: str) -> Any:
        spec = model_fn(features, labels, mode, {"rate": 0.01})
        return spec._replace(training_chief_hooks=[Hook()])

    model = Estimator(with_hook, tmp_path / "model")
    model.train(input_fn, steps=1, saving_listeners=[Listener()])

    assert order == ["listener", "hook"]


def test_a_hook_that_saves_tells_the_listeners(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    saved = []

    class Listener(tf.train.CheckpointSaverListener):  # type: ignore[misc,name-defined]  # untyped
        def after_save(self, session: Any, global_step_value: int) -> None:
            del session
            saved.append(int(global_step_value))

    Path(model.model_dir).mkdir()
    hook = tf.train.CheckpointSaverHook(model.model_dir, save_steps=2)
    model.train(input_fn, hooks=[hook], steps=4, saving_listeners=[Listener()])

    assert saved == [0, 2, 4]


def test_nobody_tells_listeners_where_nothing_is_saved(
    tmp_path: Path, input_fn: Callable[..., Any]
) -> None:
    config = RunConfig(save_checkpoints_steps=None, save_checkpoints_secs=None)
    model = Estimator(model_fn, tmp_path / "model", config, {"rate": 0.01})

    with pytest.raises(ValueError, match="There should be a CheckpointSaverHook"):
        model.train(
            input_fn, steps=1, saving_listeners=[tf.train.CheckpointSaverListener()]
        )


def test_graphs_are_kept_with_checkpoints_if_they_are_wanted(
    tmp_path: Path, input_fn: Callable[..., Any]
) -> None:
    config = RunConfig(checkpoint_save_graph_def=False)
    model = Estimator(model_fn, tmp_path / "model", config, {"rate": 0.01})

    model.train(input_fn, steps=1)

    assert (tmp_path / "model" / "model.ckpt-1.index").exists()
    assert not list((tmp_path / "model").glob("*.meta"))


def summaries(folder: Path) -> dict[str, Any]:
    """Return what the summaries in *folder* have, by tag."""
    return {
        value.tag: value.simple_value
        if value.HasField("simple_value")
        else tf.make_ndarray(value.tensor)
        for path in folder.glob("events.*")
        for event in tf.train.summary_iterator(str(path))
        for value in event.summary.value
    }


def test_training_writes_its_loss(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    model.train(input_fn, steps=1)

    assert summaries(Path(model.model_dir)) == {"loss": pytest.approx(2.5)}


def test_an_evaluation_writes_what_a_summary_can_have(
    tmp_path: Path, input_fn: Callable[..., Any]
) -> None:
    two = tf.Summary(value=[{"tag": "a", "simple_value": 3.0}]).SerializeToString()

    def judged(features: Any, labels: Any, mode: str) -> Any:
        values = {
            "vector": [1.0, 2.0],
            "summary": two,
            "text": "no summary",
            "yes": True,
        }
        metrics = {k: (tf.constant(v), tf.no_op()) for k, v in values.items()}
        spec = model_fn(features, labels, mode, {"rate": 0.01})
        return spec._replace(eval_metric_ops=metrics)

    model = Estimator(judged, tmp_path / "model").train(input_fn, steps=1)
    result = model.evaluate(input_fn, steps=1)

    assert list(result) == ["loss", "summary", "text", "vector", "yes", "global_step"]
    written = summaries(tmp_path / "model" / "eval")
    assert written.pop("checkpoint_path") == str(model.latest_checkpoint()).encode()
    assert written.pop("vector").tolist() == [1.0, 2.0]
    assert written == {"loss": pytest.approx(result["loss"]), "summary/0": 3.0}


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("loss", '"loss"'), ("global_step", "`global_step`")],
)
def test_names_of_metrics_that_are_taken(
    tmp_path: Path, input_fn: Callable[..., Any], name: str, quoted: str
) -> None:
    def judged(features: Any, labels: Any, mode: str) -> Any:
        spec = model_fn(features, labels, mode, {"rate": 0.01})
        return spec._replace(eval_metric_ops={name: tf.metrics.mean([1.0])})

    model = Estimator(judged, tmp_path / "model")

    with pytest.raises(ValueError, match=f"Metric with name {quoted} is not allowed"):
        model.evaluate(input_fn, steps=1)


def test_predictions_of_different_lengths_have_no_examples(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    small.save_linear(tmp_path / "model")

    def uneven(features: Any, labels: Any, mode: str) -> Any:
        del labels
        y = small.linear(features)
        return EstimatorSpec(mode, {"y": y, "three": tf.zeros([3])})

    model = Estimator(uneven, tmp_path / "model")

    with pytest.raises(ValueError, match="three has different batch length than"):
        next(model.predict(lambda: {"x": tf.constant(small.x)}))


@pytest.mark.parametrize(
    ("exporters", "error", "message"),
    [
        pytest.param([3], TypeError, r"found \[3\]", id="a number"),
        pytest.param(
            [FinalExporter("a", lambda: None), LatestExporter("a", lambda: None)],
            ValueError,
            "must have unique names",
            id="two of one name",
        ),
        pytest.param(
            FinalExporter("", lambda: None), ValueError, "empty", id="without a name"
        ),
    ],
)
def test_exporters_that_cannot_be_told_apart(
    exporters: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        EvalSpec(lambda: None, exporters=exporters)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([5, 6, 4, 4], [True, False, True, False], id="smaller is better"),
        pytest.param([1], [True], id="the first one is the best"),
    ],
)
def test_the_best_is_exported(
    tmp_path: Path, small: SimpleNamespace, losses: list[float], expected: list[bool]
) -> None:
    path = small.save_linear(tmp_path / "model")
    model = Estimator(small.model_of(), tmp_path / "model")
    exporter = BestExporter(
        serving_input_receiver_fn=small.receive_x, exports_to_keep=1
    )

    made = [
        exporter.export(model, str(tmp_path / "best"), path, {"loss": loss}, False)
        for loss in losses
    ]

    assert [path is not None for path in made] == expected
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_only_the_newest_exports_are_kept(
    tmp_path: Path, small: SimpleNamespace
) -> None:
    path = small.save_linear(tmp_path / "model")
    for name in ("1000000001", "1000000002", "notes"):
        (tmp_path / "latest" / name).mkdir(parents=True)
    model = Estimator(small.model_of(), tmp_path / "model")
    exporter = LatestExporter("latest", small.receive_x, exports_to_keep=2)

    made = exporter.export(model, str(tmp_path / "latest"), path, {}, False)

    assert made is not None
    assert {child.name for child in (tmp_path / "latest").iterdir()} == {
        "1000000002",
        Path(made.decode()).name,
        "notes",
    }


def test_arrays_cross_the_ends_of_epochs() -> None:
    fn = inputs.numpy_input_fn(
        np.arange(3), np.arange(3) * 10, batch_size=2, num_epochs=2, shuffle=False
    )
    features, labels = fn()

    with tf.Session() as session:
        batches = [session.run([features, labels]) for _ in range(3)]
        with pytest.raises(tf.errors.OutOfRangeError):
            session.run(features)

    assert [f.tolist() for f, _ in batches] == [[0, 1], [2, 0], [1, 2]]
    assert batches[1][1].tolist() == [20, 0]


def test_arrays_of_python_strings_are_strings() -> None:
    x = np.array(["a", "b"], object)
    features = inputs.numpy_input_fn(x, shuffle=False)()

    with tf.Session() as session:
        assert session.run(features).tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["cat", "dog"], id="texts"),
        pytest.param(np.array(["cat", "dog"]), id="an array of texts"),
        pytest.param(np.array([b"cat", b"dog"]), id="an array of bytes"),
        pytest.param(np.array(["cat", "dog"], object), id="an array of objects"),
    ],
)
@pytest.mark.parametrize("source", ["numpy", "pandas"])
def test_features_may_be_texts(words: Any, source: str) -> None:
    if source == "pandas":
        pandas = pytest.importorskip("pandas", reason="needs pandas")
        frame = pandas.DataFrame({"word": list(words), "count": [1, 2]})
        fn = inputs.pandas_input_fn(frame, shuffle=False)
    else:
        fn = inputs.numpy_input_fn(
            {"word": np.asarray(words), "count": np.array([1, 2])}, shuffle=False
        )

    with tf.Session() as session:
        features = session.run(fn())

    assert features["word"].tolist() == [b"cat", b"dog"]
    assert features["count"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: inputs.numpy_input_fn(np.zeros(3), shuffle=cast("bool", 1)),
            "explicitly set as boolean (it is recommended to set it as True for "
            "training); got 1",
            id="a number for whether to shuffle",
        ),
        pytest.param(
            lambda: inputs.numpy_input_fn(np.zeros(3)),
            "shuffle must be provided and explicitly set as boolean",
            id="without saying whether to shuffle",
        ),
        pytest.param(
            lambda: inputs.numpy_input_fn(np.zeros(3), np.zeros(2), shuffle=False),
            "Length of tensors in x and y is mismatched",
            id="more features than labels",
        ),
    ],
)
def test_arrays_that_do_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
