"""What a version and its files add to the configuration of sessions."""

import logging
from pathlib import Path

import pytest

from servable.apis import config_pb2, saved_model_config_pb2
from servable.core.servable_id import ServableId
from servable.platforms.session_config import (
    MLMD_UUID,
    SAVED_MODEL_CONFIG,
    read_mlmd_uuid,
    session_config_of,
)

BASE = config_pb2.ConfigProto(intra_op_parallelism_threads=3).SerializeToString()


def write(version: Path, name: str, content: bytes) -> None:
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / name).write_bytes(content)


def config_of(
    version: Path, metadata: ServableId | None = None
) -> config_pb2.ConfigProto:
    return config_pb2.ConfigProto.FromString(
        session_config_of(BASE, str(version), metadata)
    )


def test_without_files_the_configuration_is_that_of_all(tmp_path: Path) -> None:
    assert session_config_of(BASE, str(tmp_path), None) == BASE


def test_a_model_may_turn_the_optimizers_off(tmp_path: Path) -> None:
    config = saved_model_config_pb2.SavedModelConfig()
    config.session_overrides.disable_meta_optimizer = True
    write(tmp_path, SAVED_MODEL_CONFIG, config.SerializeToString())

    found = config_of(tmp_path)

    assert found.graph_options.rewrite_options.disable_meta_optimizer
    assert found.intra_op_parallelism_threads == 3


def test_tensorflow_is_told_what_it_runs(tmp_path: Path) -> None:
    metadata = config_of(tmp_path, ServableId("m", 7)).experimental.session_metadata

    assert (metadata.name, metadata.version) == ("m", 7)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"", "", id="an empty file changes nothing"),
        pytest.param(b"\xff", "is left out", id="a broken file is left out"),
        pytest.param(
            saved_model_config_pb2.SavedModelConfig(
                session_overrides=saved_model_config_pb2.SessionOverrides(
                    batch_op_rewriter_config=b"x"
                )
            ).SerializeToString(),
            "batch_op_rewriter_config",
            id="an optimizer that TensorFlow does not have is told of",
        ),
    ],
)
def test_what_cannot_be_honoured_is_no_error(
    content: bytes, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, SAVED_MODEL_CONFIG, content)
    with caplog.at_level(logging.WARNING):
        found = session_config_of(BASE, str(tmp_path), None)

    assert found == BASE
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


def test_the_name_in_ml_metadata_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert read_mlmd_uuid(str(tmp_path)) is None
    write(tmp_path, MLMD_UUID, b"a uuid\n")
    assert read_mlmd_uuid(str(tmp_path)) == "a uuid"
