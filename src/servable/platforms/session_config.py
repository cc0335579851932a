"""
The session of one version: what it and its files add to the configuration of all.

A SavedModel may bring assets.extra/saved_model_config.pb along, which can turn
TensorFlow's graph optimizers off, and assets.extra/mlmd_uuid, by which ML Metadata
knows it.
"""

import logging
import os
from typing import Final

from google.protobuf.message import DecodeError

from servable.apis import config_pb2, saved_model_config_pb2
from servable.core.servable_id import ServableId

_logger = logging.getLogger(__name__)

SAVED_MODEL_CONFIG: Final = os.path.join("assets.extra", "saved_model_config.pb")
MLMD_UUID: Final = os.path.join("assets.extra", "mlmd_uuid")

_MAX_UUID_BYTES: Final = 1024


def session_config_of(
    session_config: bytes, path: str, metadata: ServableId | None
) -> bytes:
    """
    Return the serialized ConfigProto for the SavedModel at *path*.

    With *metadata* TensorFlow is told which version it runs.  A file that is no
    SavedModelConfig is told of in the log, and left out.
    """
    optimizers_off = _turns_optimizers_off(path)
    if not optimizers_off and metadata is None:
        return session_config
    config = config_pb2.ConfigProto.FromString(session_config)
    if optimizers_off:
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    if metadata is not None:
        config.experimental.session_metadata.name = metadata.name
        config.experimental.session_metadata.version = metadata.version
    return config.SerializeToString()


def read_mlmd_uuid(path: str) -> str | None:
    """Return what ML Metadata calls the SavedModel at *path*; None if it says not."""
    try:
        with open(os.path.join(path, MLMD_UUID), "rb") as file:
            return file.read(_MAX_UUID_BYTES).decode(errors="replace").strip()
    except OSError:
        return None


def _turns_optimizers_off(path: str) -> bool:
    file_path = os.path.join(path, SAVED_MODEL_CONFIG)
    try:
        with open(file_path, "rb") as file:
            config = saved_model_config_pb2.SavedModelConfig.FromString(file.read())
    except FileNotFoundError:
        return False
    except (OSError, DecodeError) as error:
        _logger.warning("%s is left out: %s", file_path, error)
        return False
    overrides = config.session_overrides
    for field in ("remote_op_remap_config", "batch_op_rewriter_config"):
        if getattr(overrides, field):
            _logger.warning(
                "%s of %s has no effect: TensorFlow's library has no such optimizer",
                field,
                file_path,
            )
    return overrides.disable_meta_optimizer
