"""What `servable show` reads from a SavedModel, and says of what is none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format

from servable.apis import saved_model_pb2, types_pb2
from servable.cli.show import show, size_text


def saved_model(graph_bytes: int = 0) -> saved_model_pb2.SavedModel:
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.extend(["serve", "gpu"])
    meta_graph.meta_info_def.tensorflow_version = "2.99.0"
    for name in ("words", "scores", "asset"):
        meta_graph.graph_def.node.add(name=name, op="x" * graph_bytes)
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["words"].name = "words:0"
    signature.inputs["words"].dtype = types_pb2.DT_STRING
    signature.inputs["words"].tensor_shape.unknown_rank = True
    signature.outputs["scores"].name = "scores:0"
    signature.outputs["scores"].dtype = types_pb2.DT_FLOAT
    for size in (-1, 3):
        signature.outputs["scores"].tensor_shape.dim.add(size=size)
    signature.defaults["words"].dtype = types_pb2.DT_STRING
    asset = meta_graph.asset_file_def.add(filename="vocabulary.txt")
    asset.tensor_info.name = "asset:0"
    meta_graph.object_graph_def.nodes.add()
    return model


def write_version(directory: Path, model: saved_model_pb2.SavedModel) -> Path:
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(model.SerializeToString())
    (directory / "variables" / "variables.index").write_bytes(b"1234")
    (directory / "variables" / "variables.data-00000-of-00001").write_bytes(b"12")
    (directory / "assets").mkdir()
    (directory / "assets" / "vocabulary.txt").write_bytes(b"a\nb\n")
    return directory


def run(*arguments: object) -> Result:
    return CliRunner().invoke(show, [*map(str, arguments)])


def test_shows_signatures_tags_assets_and_sizes(tmp_path: Path) -> None:
    result = run(write_version(tmp_path / "1", saved_model()))

    assert result.exit_code == 0
    for expected in (
        "variables 6 bytes",
        "tags serve, gpu",
        "TensorFlow 2.99.0",
        "serving_default",
        "tensorflow/serving/predict",
        "input (has default)",
        "string",
        "[...]",
        "[?, 3]",
        "scores:0",
        "asset vocabulary.txt (4 bytes)",
    ):
        assert expected in result.output


def test_json_has_the_same(tmp_path: Path) -> None:
    model = saved_model()
    for name in ("a", "b"):
        function = model.meta_graphs[0].graph_def.library.function.add()
        function.node_def.add(name=name, op="Abs")
    directory = write_version(tmp_path / "7", model)
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "notes").write_text("!")
    result = run("--json", directory)
    document = json.loads(result.output)
    (meta_graph,) = document["meta_graphs"]
    signature = meta_graph["signatures"]["serving_default"]

    assert document["variables_bytes"] == 6
    assert meta_graph["tags"] == ["serve", "gpu"]
    assert meta_graph["assets"] == {"vocabulary.txt": 4}
    assert meta_graph["ops"] == {"Abs": 2}
    assert document["assets_extra"] == {"notes": 1}
    assert signature["outputs"] == {
        "scores": {"name": "scores:0", "dtype": "float32", "shape": [None, 3]}
    }
    assert signature["defaults"] == ["words"]


def test_the_graph_is_not_parsed(tmp_path: Path) -> None:
    model = saved_model(graph_bytes=100_000)
    directory = write_version(tmp_path / "1", model)
    data = model.SerializeToString()
    # No message can be parsed from this; what is not looked at does not matter.
    broken = data.replace(b"x" * 100, b"\xff" * 100)
    (directory / "saved_model.pb").write_bytes(broken)

    assert broken != data
    assert run(directory).exit_code == 0


def test_operations_are_counted_when_asked_for(tmp_path: Path) -> None:
    directory = write_version(tmp_path / "1", saved_model(graph_bytes=3))

    assert "3 operations of 1 kinds" in run(directory).output
    assert "xxx" not in run(directory).output
    assert "xxx" in run("--ops", directory).output


def test_text_graphs_are_read(tmp_path: Path) -> None:
    text = text_format.MessageToString(saved_model())
    (tmp_path / "saved_model.pbtxt").write_text(text + "\nfrom_the_future: 1\n")

    assert "serving_default" in run(tmp_path).output


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_tensors_that_are_not_in_the_graph_are_told_of(
    tmp_path: Path, text: bool
) -> None:
    model = saved_model()
    model.meta_graphs[0].graph_def.node[0].name = "texts"
    if text:
        (tmp_path / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    else:
        (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    (meta_graph,) = json.loads(run("--json", tmp_path).output)["meta_graphs"]

    (fault,) = meta_graph["faults"]
    assert fault == (
        "signature 'serving_default', input 'words': "
        "tensor 'words:0' is not in the graph"
    )
    assert f"{fault}\n" in run(tmp_path).output


def test_a_base_path_shows_its_newest_version(tmp_path: Path) -> None:
    for version in ("2", "00010", "9"):
        write_version(tmp_path / version, saved_model())
    (tmp_path / "11").mkdir()

    output = run(tmp_path).output

    assert "version 10; other versions: 2, 9" in output


def test_an_asset_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    directory = write_version(tmp_path / "1", saved_model())
    (directory / "assets" / "vocabulary.txt").unlink()

    assert "asset vocabulary.txt (missing)" in run(directory).output


def make(tmp_path: Path, *names: str) -> Path:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved_model().SerializeToString())
    return tmp_path


@pytest.mark.parametrize(
    ("files", "argument", "message"),
    [
        pytest.param([], "nowhere", "does not exist", id="no such path"),
        pytest.param(["m.pb"], "m.pb", "is a file", id="a file"),
        pytest.param([], ".", "the directory is empty", id="an empty directory"),
        pytest.param(
            ["readme"], ".", "neither saved_model.pb nor a directory", id="other files"
        ),
        pytest.param(
            ["1/export.meta"],
            ".",
            "version 1 has no saved_model.pb",
            id="other version",
        ),
        pytest.param(
            ["latest/saved_model.pb"],
            ".",
            "'latest', but versions are named by numbers",
            id="a version without a number",
        ),
        pytest.param(["m.keras"], ".", "m.keras is a Keras file", id="a Keras file"),
    ],
)
def test_what_is_no_saved_model_is_explained_in_one_line(
    files: list[str], argument: str, message: str, tmp_path: Path
) -> None:
    result = run(make(tmp_path, *files) / argument)

    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(saved_model().SerializeToString()[:-5], id="a file cut short"),
        pytest.param(b"\x0f\x12", id="other bytes"),
    ],
)
def test_a_damaged_file_is_said_to_be_damaged(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(data)

    result = run(tmp_path)

    assert result.exit_code == 2
    assert "was it copied completely?" in result.output


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**40, "1024.0 GiB")],
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert size_text(size) == text
