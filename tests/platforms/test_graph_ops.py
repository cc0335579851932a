"""What a SavedModel's operations can do to the machine, and what a policy refuses."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format

from servable.apis import saved_model_pb2
from servable.cli.check import check
from servable.config.server_options import FORBIDDABLE
from servable.errors import DataLoss, FailedPrecondition
from servable.platforms.graph_ops import (
    EFFECTS,
    EFFECTS_OF,
    check_operations,
    operations_of,
)


def write(path: Path, *ops: str, inside: str = "", text: bool = False) -> Path:
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    graph = model.meta_graphs.add().graph_def
    for number, op in enumerate(ops):
        graph.node.add(name=f"n{number}", op=op)
    if inside:
        graph.library.function.add().node_def.add(name="inner", op=inside)
    path.mkdir(parents=True, exist_ok=True)
    if text:
        (path / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    else:
        (path / "saved_model.pb").write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_operations_of_functions_count(tmp_path: Path, text: bool) -> None:
    path = write(tmp_path / "1", "Add", "Add", inside="WriteFile", text=text)

    assert operations_of(str(path)) == {"Add": 2, "WriteFile": 1}
    with pytest.raises(FailedPrecondition, match=r"WriteFile \(files\)"):
        check_operations(str(path), ["files"])


def test_what_is_not_forbidden_is_fine(tmp_path: Path) -> None:
    path = str(write(tmp_path / "1", "Print", "RestoreV2", "Add"))

    check_operations(path, ["files", "python", "network", "abort"])
    check_operations(path, [])
    with pytest.raises(FailedPrecondition) as refused:
        check_operations(path, ["print", "checkpoint"])

    assert refused.value.message == (
        "The model has operations that forbid_ops forbids: "
        "Print (print), RestoreV2 (checkpoint)"
    )


@pytest.mark.parametrize("cut", [1, 3, 17])
def test_a_damaged_graph_is_refused(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path / "1", "Add", "Mul") / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-cut])

    with pytest.raises(DataLoss):
        check_operations(str(tmp_path / "1"), ["files"])


def test_a_number_without_end_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x12" + b"\xff" * 100_000)

    with pytest.raises(DataLoss):
        operations_of(str(tmp_path))


def test_what_can_be_forbidden_is_what_is_told() -> None:
    assert set(FORBIDDABLE) == EFFECTS.keys()


@pytest.mark.tensorflow
def test_the_table_has_operations_that_there_are() -> None:
    """Each is one of TensorFlow's, so that no name is misspelt."""
    client = pytest.importorskip("tensorflow.python.client.pywrap_tf_session")
    op_def_pb2 = pytest.importorskip("tensorflow.core.framework.op_def_pb2")
    known = op_def_pb2.OpList.FromString(
        client.TF_GetBuffer(client.TF_GetAllOpList())
    ).op
    names = {op.name for op in known}

    # TensorRT's are in its builds for GPUs only.
    assert {op for op in EFFECTS_OF.keys() - names if "TRT" not in op} == set()
    suspicious = {
        op.name
        for op in known
        for argument in (*op.input_arg, *op.attr)
        if argument.name.endswith(("filename", "filenames", "debug_urls"))
        or argument.name in {"address", "server_address", "path", "logdir"}
    }
    # These put names together, and open nothing.
    assert suspicious - EFFECTS_OF.keys() - {"ShardedFilename", "ShardedFilespec"} == (
        set()
    )


@pytest.mark.parametrize(
    ("ops", "options", "status"),
    [
        pytest.param(["Add", "MatMul"], [], 0, id="only computes"),
        pytest.param(["RestoreV2"], [], 0, id="has variables"),
        pytest.param(["WriteFile"], [], 1, id="writes files"),
        pytest.param(["WriteFile"], ["--allow=files"], 0, id="may write files"),
        pytest.param(["WriteFile", "PyFunc"], ["--allow=files"], 1, id="may not all"),
        pytest.param(["Add"], ["--allow=everything"], 2, id="no such effect"),
    ],
)
def test_the_status_is_for_scripts(
    tmp_path: Path, ops: list[str], options: list[str], status: int
) -> None:
    write(tmp_path / "m" / "1", *ops)
    result = CliRunner().invoke(check, ["--ops", str(tmp_path / "m"), *options])

    assert result.exit_code == status, result.output
    assert all(op in result.output for op in ops if op in EFFECTS_OF and status < 2)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(check, ["--ops", str(tmp_path)])

    assert result.exit_code == 2
    assert "is no SavedModel" in result.output
