"""Which models a session cannot restore, told from their graphs alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.apis import get_model_metadata_pb2, meta_graph_pb2, saved_model_pb2
from servable.platforms.unrestored_variables import read_object_graph_model

RECORDED = Path(__file__).parents[3] / "shared" / "conformance" / "models"


def add(meta_graph: meta_graph_pb2.MetaGraphDef, name: str, op: str, *ins: str) -> None:
    node = meta_graph.graph_def.node.add(name=name, op=op, input=ins)
    if op == "VarHandleOp":
        node.attr["dtype"].type = 1  # type: ignore[assignment]
        node.attr["shared_name"].s = name.removesuffix("_again").encode()


def model() -> saved_model_pb2.SavedModel:
    """Write a model that reads `kernel` and `bias`, and restores both."""
    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = saved_model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    add(meta_graph, "kernel", "VarHandleOp")
    add(meta_graph, "bias", "VarHandleOp")
    add(meta_graph, "x", "Placeholder")
    add(meta_graph, "prefix", "Placeholder")
    add(meta_graph, "call", "StatefulPartitionedCall", "x", "kernel", "bias:0")
    add(meta_graph, "y", "Identity", "call:1", "^x")
    add(meta_graph, "restore", "StatefulPartitionedCall", "prefix", "kernel", "bias")
    add(meta_graph, "init", "NoOp")
    meta_graph.saver_def.restore_op_name = "restore"
    meta_graph.collection_def["saved_model_main_op"].node_list.value.append("init")
    signature = meta_graph.signature_def["serving_default"]
    signature.inputs["x"].name = "x:0"
    signature.outputs["y"].name = "y:0"
    meta_graph.signature_def["__saved_model_init_op"].outputs["o"].name = "init"
    meta_graph.object_graph_def.nodes.add()
    return saved_model


def node(saved_model: saved_model_pb2.SavedModel, name: str) -> list[str]:
    """Return the inputs of a node, to be changed."""
    nodes = saved_model.meta_graphs[0].graph_def.node
    (found,) = (node for node in nodes if node.name == name)
    return found.input  # type: ignore[return-value]


def write(path: Path, saved_model: saved_model_pb2.SavedModel) -> str:
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "variables.index").write_bytes(b"index")
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return str(path)


def nothing(_: saved_model_pb2.SavedModel) -> None:
    """Leave the model as it is."""


def no_restore(saved_model: saved_model_pb2.SavedModel) -> None:
    node(saved_model, "restore")[:] = ["prefix"]


def restores_copies(saved_model: saved_model_pb2.SavedModel) -> None:
    add(saved_model.meta_graphs[0], "Variable_1", "VarHandleOp")
    node(saved_model, "restore")[:] = ["prefix", "Variable_1", "bias"]


def restores_by_another_handle(saved_model: saved_model_pb2.SavedModel) -> None:
    add(saved_model.meta_graphs[0], "kernel_again", "VarHandleOp")
    node(saved_model, "restore")[:] = ["prefix", "kernel_again", "bias"]


def initializes(saved_model: saved_model_pb2.SavedModel) -> None:
    restores_copies(saved_model)
    node(saved_model, "init").append("^kernel")


def initializes_by_signature(saved_model: saved_model_pb2.SavedModel) -> None:
    restores_copies(saved_model)
    saved_model.meta_graphs[0].collection_def.clear()
    node(saved_model, "init").append("^kernel")


def reads_in_another_signature(saved_model: saved_model_pb2.SavedModel) -> None:
    restores_copies(saved_model)
    node(saved_model, "call")[:] = ["x", "bias"]
    add(saved_model.meta_graphs[0], "z", "ReadVariableOp", "kernel")
    saved_model.meta_graphs[0].signature_def["other"].outputs["z"].name = "z:0"


def restores_copies_of_what_nobody_reads(
    saved_model: saved_model_pb2.SavedModel,
) -> None:
    restores_copies(saved_model)
    node(saved_model, "call")[:] = ["x", "bias"]


def is_fed_what_it_would_read(saved_model: saved_model_pb2.SavedModel) -> None:
    restores_copies(saved_model)
    signature = saved_model.meta_graphs[0].signature_def["serving_default"]
    signature.inputs["call"].name = "call:1"


def cycle(saved_model: saved_model_pb2.SavedModel) -> None:
    restores_copies(saved_model)
    node(saved_model, "x").append("y")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(nothing, (), id="everything is restored"),
        pytest.param(no_restore, ("bias", "kernel"), id="nothing is restored"),
        pytest.param(restores_copies, ("kernel",), id="a copy is restored instead"),
        pytest.param(restores_by_another_handle, (), id="by another handle"),
        pytest.param(initializes, (), id="the initializer assigns it"),
        pytest.param(
            initializes_by_signature, (), id="the initializer is a signature only"
        ),
        pytest.param(
            reads_in_another_signature, ("kernel",), id="another signature reads it"
        ),
        pytest.param(
            restores_copies_of_what_nobody_reads, (), id="no signature reads it"
        ),
        pytest.param(is_fed_what_it_would_read, (), id="a request is fed instead"),
        pytest.param(cycle, ("kernel",), id="a graph that goes in circles"),
    ],
)
def test_unrestored_variables(
    change: Callable[[saved_model_pb2.SavedModel], None],
    expected: tuple[str, ...],
    tmp_path: Path,
) -> None:
    saved_model = model()
    change(saved_model)

    found = read_object_graph_model(write(tmp_path / "1", saved_model), ["serve"])

    assert found is not None
    assert found.unrestored_variables == expected


def test_the_signatures_are_those_of_the_graph(tmp_path: Path) -> None:
    saved_model = model()
    saved_model.meta_graphs[0].signature_def["long"].inputs["x" * 300].name = "x:0"

    found = read_object_graph_model(write(tmp_path / "1", saved_model), ["serve"])

    assert found is not None
    read = get_model_metadata_pb2.SignatureDefMap.FromString(found.signature_def_map)
    assert read.signature_def == saved_model.meta_graphs[0].signature_def


def test_the_graph_of_the_tags_counts(tmp_path: Path) -> None:
    saved_model = model()
    other = saved_model.meta_graphs.add()
    other.CopyFrom(saved_model.meta_graphs[0])
    other.meta_info_def.tags.append("gpu")
    restores_copies(saved_model)
    path = write(tmp_path / "1", saved_model)

    serve = read_object_graph_model(path, ["serve"])
    gpu = read_object_graph_model(path, ["gpu", "serve"])

    assert serve is not None
    assert gpu is not None
    assert (serve.unrestored_variables, gpu.unrestored_variables) == (("kernel",), ())


def without_object_graph(saved_model: saved_model_pb2.SavedModel, _: Path) -> None:
    saved_model.meta_graphs[0].ClearField("object_graph_def")


def with_other_tags(saved_model: saved_model_pb2.SavedModel, _: Path) -> None:
    saved_model.meta_graphs[0].meta_info_def.tags[:] = ["train"]


def without_index(_: saved_model_pb2.SavedModel, path: Path) -> None:
    (path / "variables" / "variables.index").unlink()


@pytest.mark.parametrize(
    "change", [without_object_graph, with_other_tags, without_index]
)
def test_what_is_left_to_the_session(
    change: Callable[[saved_model_pb2.SavedModel, Path], None], tmp_path: Path
) -> None:
    saved_model = model()
    no_restore(saved_model)
    path = tmp_path / "1"
    write(path, saved_model)
    change(saved_model, path)
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())

    assert read_object_graph_model(str(path), ["serve"]) is None


def test_what_cannot_be_read_is_left_to_the_session(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").touch()

    assert read_object_graph_model(str(tmp_path), ["serve"]) is None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scratch")
    write(path / "1", model())
    return path / "1"


@given(st.data())
def test_damage_is_never_more_than_an_answer(
    scratch: Path, data: st.DataObject
) -> None:
    content = bytearray(model().SerializeToString())
    end = data.draw(st.integers(0, len(content)))
    changes = data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))
    )
    for at, byte in changes:
        content[at] = byte
    (scratch / "saved_model.pb").write_bytes(content[:end])

    found = read_object_graph_model(str(scratch), ["serve"])

    assert found is None or isinstance(found.unrestored_variables, tuple)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded models are not here")
@pytest.mark.parametrize(
    "path",
    [str(path.parent) for path in sorted(RECORDED.glob("*/*/saved_model.pb"))],
    ids=lambda path: "/".join(Path(path).parts[-2:]),
)
def test_a_session_restores_each_recorded_model(path: str) -> None:
    for tags in (["serve"], ["other"], ["gpu", "serve"]):
        found = read_object_graph_model(path, tags)

        assert found is None or not found.unrestored_variables
