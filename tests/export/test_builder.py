"""The builder's order rules and warnings, and what there is without TensorFlow."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servable.cli.saved_model_summary import summarize

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.export import (  # noqa: E402
    SavedModelBuilder,
    build_tensor_info,
    signature_def_utils,
    tag_constants,
)

pytestmark = pytest.mark.tensorflow


def signatures() -> dict[str, Any]:
    """Build x * v in the default graph."""
    x = tf.placeholder(tf.float32, [None], name="x")
    y = x * tf.get_variable("v", initializer=2.0)
    made = signature_def_utils.build_signature_def(
        {"x": build_tensor_info(x)},
        {"y": build_tensor_info(y)},
        "tensorflow/serving/predict",
    )
    return {"serving_default": made}


def add_first(builder: Any, *assets: Path) -> None:
    with tf.Graph().as_default(), tf.Session() as session:
        made = signatures()
        session.run(tf.global_variables_initializer())
        constants = [tf.constant(str(asset)) for asset in assets]
        builder.add_meta_graph_and_variables(
            session, [tag_constants.SERVING], made, constants
        )


def add_second(builder: Any, *assets: Path) -> None:
    with tf.Graph().as_default():
        made = signatures()
        constants = [tf.constant(str(asset)) for asset in assets]
        builder.add_meta_graph(["bar-tag", "baz-tag"], made, constants)


def test_further_meta_graphs_share_the_variables_of_the_first(tmp_path: Path) -> None:
    builder = SavedModelBuilder(tmp_path / "m")

    add_first(builder)
    add_second(builder)
    builder.save()

    summary = summarize(tmp_path / "m")
    assert [graph.tags for graph in summary.meta_graphs] == [
        ("serve",),
        ("bar-tag", "baz-tag"),
    ]
    for tags in (["serve"], ["bar-tag", "baz-tag"]):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.saved_model.loader.load(session, tags, str(tmp_path / "m"))
            assert session.run("mul:0", {"x:0": [3.0]}) == [6.0]


def test_a_further_meta_graph_cannot_be_the_first(tmp_path: Path) -> None:
    builder = SavedModelBuilder(tmp_path / "m")

    with pytest.raises(AssertionError, match="has not been saved yet"):
        add_second(builder)


def test_variables_are_added_once(tmp_path: Path) -> None:
    builder = SavedModelBuilder(tmp_path / "m")
    add_first(builder)

    with pytest.raises(AssertionError, match="has already been saved"):
        add_first(builder)


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(AssertionError, match="already exists, and isn't empty"):
        SavedModelBuilder(tmp_path)


def asset(tmp_path: Path, folder: str, text: str) -> Path:
    path = tmp_path / folder / "words.txt"
    path.parent.mkdir()
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("second", "is_warned"),
    [
        pytest.param("other", True, id="another file of the same name"),
        pytest.param("words", False, id="the same file from elsewhere"),
    ],
)
def test_an_asset_that_would_be_left_out_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: str, is_warned: bool
) -> None:
    builder = SavedModelBuilder(tmp_path / "m")

    add_first(builder, asset(tmp_path, "a", "words"))
    add_second(builder, asset(tmp_path, "b", second))

    assert ("is left out" in caplog.text) is is_warned


def test_an_asset_that_is_gone_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_first(SavedModelBuilder(tmp_path / "m"), tmp_path / "gone.txt")

    assert "gone.txt does not exist" in caplog.text


@pytest.mark.parametrize(
    ("code", "output"),
    [
        pytest.param(
            "import servable.export as e; e.publish; e.staged;"
            "print('tensorflow' in sys.modules)",
            "False\n",
            id="publishing imports no TensorFlow",
        ),
        pytest.param(
            "import servable.cli.diff, servable.cli.show, servable.cli.publish;"
            "print('tensorflow' in sys.modules)",
            "False\n",
            id="nor do the commands that read",
        ),
        pytest.param(
            "sys.modules['tensorflow'] = None\n"
            "try: import servable.estimator\n"
            "except ModuleNotFoundError as error: print(error)",
            "Exporting needs TensorFlow, which is not installed here: "
            "pip install 'servable[tensorflow]'\n",
            id="what needs it says how to get it",
        ),
    ],
)
def test_without_tensorflow(code: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == output, done.stderr
