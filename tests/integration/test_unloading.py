"""What a version leaves behind when it goes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("servable._engine")

from servable.apis import saved_model_pb2, types_pb2
from servable.client import Client, make_tensor_proto

TABLE_MIB = 128
COUNT = (TABLE_MIB << 20) // 4
PARTS = 2000
PART = np.arange(8192, dtype=np.float32)  # too little to be memory of its own


def write_table(write_version: Callable[..., Path], path: Path) -> None:
    """Write a version of x / 2 + table[x], with a table of 128 MiB."""
    file = write_version(path.parent.parent / "beside" / "1") / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = model.meta_graphs[0].graph_def
    table = graph.node.add(name="table", op="Const")
    table.attr["dtype"].type = types_pb2.DT_FLOAT
    values = make_tensor_proto(np.arange(COUNT, dtype=np.float32))
    table.attr["value"].tensor.MergeFromString(values.SerializeToString())
    # Depends on what is fed, so that nobody works it out beforehand.
    index = graph.node.add(name="index", op="Cast", input=["x"])
    index.attr["SrcT"].type = types_pb2.DT_FLOAT
    index.attr["DstT"].type = types_pb2.DT_INT32
    picked = graph.node.add(name="picked", op="Gather", input=["table", "index"])
    picked.attr["Tparams"].type = types_pb2.DT_FLOAT
    picked.attr["Tindices"].type = types_pb2.DT_INT32
    for node in graph.node:
        if node.name == "y":
            node.input[1] = "picked"
    file.write_bytes(model.SerializeToString())
    file.parent.rename(path)


def write_parts(write_version: Callable[..., Path], path: Path) -> None:
    """Write a version of x / 2 + 2 with 64 MiB of small constants."""
    file = write_version(path.parent.parent / "beside" / "1") / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    values = make_tensor_proto(PART).SerializeToString()
    for number in range(PARTS):
        part = model.meta_graphs[0].graph_def.node.add(name=f"part{number}", op="Const")
        part.attr["dtype"].type = types_pb2.DT_FLOAT
        part.attr["value"].tensor.MergeFromString(values)
    file.write_bytes(model.SerializeToString())
    file.parent.rename(path)


def ended(client: Client, version: int) -> bool:
    return any(s.version == version and s.state == "END" for s in client.status("m"))


def test_memory_goes_back_to_the_system(
    start: Callable[..., Any],
    wait_until: Callable[..., None],
    write_version: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base_path = tmp_path / "m"
    write_version(base_path / "1")
    server = start(
        *(f"--model_base_path={base_path}", "--model_name=m", "--wait_for_models=true"),
        "--file_system_poll_wait_seconds=1",
    )
    with Client(server.grpc) as client:
        client.predict("m", [1.0])
        before = server.resident_mib()
        for version in (2, 3):
            write_table(write_version, base_path / str(version))
            wait_until(lambda n=version: server.is_serving("m", n), "new version")
            assert client.predict("m", [6.0], version=version)["y"].tolist() == [9.0]
            loaded = server.resident_mib()
            shutil.rmtree(base_path / str(version))
            wait_until(lambda n=version: ended(client, n), "its end")

    assert loaded - before > 2 * TABLE_MIB
    # TensorFlow's library keeps one copy of the constant, without this server as well.
    wait_until(
        lambda: server.resident_mib() - before < 1.5 * TABLE_MIB, "memory given back"
    )


def test_memory_of_many_small_parts_goes_back_to_the_system(
    start: Callable[..., Any],
    wait_until: Callable[..., None],
    write_version: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base_path = tmp_path / "m"
    write_version(base_path / "1")
    server = start(str(base_path), "--wait_for_models")
    with Client(server.grpc) as client:
        client.predict("m", [1.0])
        before = server.resident_mib()
        write_parts(write_version, base_path / "2")
        wait_until(lambda: server.is_serving("m", 2), "new version")
        grown = server.resident_mib() - before
        shutil.rmtree(base_path / "2")
        wait_until(lambda: ended(client, 2), "its end")

        assert grown > PARTS * PART.nbytes / 2**20
        # What is free between what is not, the allocator keeps unless it is asked.
        wait_until(
            lambda: server.resident_mib() - before < grown / 2, "memory given back"
        )
        assert client.predict("m", [1.0])["y"].tolist() == [2.5]
