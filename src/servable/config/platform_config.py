"""
How the platforms open their models: the PlatformConfigMap message.

Given as a file it replaces everything that flags say about TensorFlow.
"""

import logging
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from servable.apis import (
    config_pb2,
    platform_config_pb2,
    saved_model_bundle_source_adapter_pb2,
    session_bundle_config_pb2,
    thread_pool_factory_config_pb2,
)
from servable.config import batching_parameters, session_config
from servable.config.batching_options import NO_OPTIONS, BatchingOptionsByModel
from servable.config.batching_parameters import BatchingParameters
from servable.config.model_batching import ModelBatching
from servable.config.model_server_config import TENSORFLOW
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument, NotFound

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TensorFlowConfig:
    """
    How SavedModels are opened.

    session_config is a serialized tensorflow.ConfigProto, load_run_options one of
    tensorflow.RunOptions for what is run to load a model.  fixed_inputs are names in
    the graph and serialized TensorProtos that every run is fed.  batching is None where
    requests run one by one.  transient_ram_bytes are needed beside a model's files.
    num_tflite_interpreters is 0 where TensorFlow Lite models are not looked for.
    """

    session_config: bytes = b""
    saved_model_tags: tuple[str, ...] = ("serve",)
    batching: BatchingParameters | None = None
    enable_per_model_batching_parameters: bool = False
    batching_options: BatchingOptionsByModel = NO_OPTIONS
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    num_model_warmup_threads: int = 1
    enable_all_batch_sizes_warmup: bool = False
    session_target: str = ""
    load_run_options: bytes = b""
    fixed_inputs: tuple[tuple[str, bytes], ...] = ()
    transient_ram_bytes: int = 0
    enable_session_metadata: bool = False
    num_tflite_interpreters: int = 0

    @property
    def model_batching(self) -> ModelBatching:
        """Says how the requests of a version are batched."""
        return ModelBatching(
            self.batching,
            self.enable_per_model_batching_parameters,
            self.batching_options,
        )


# Fields of SessionBundleConfig and its ModelWarmupOptions that change nothing here.
_WITHOUT_EFFECT: Final = {
    "in_graph_batching_parameters": "batches that graphs form follow the graph",
    "remove_unused_fields_from_bundle_metagraph": "nothing else is ever kept",
    "resource_estimation_uses_validation_result": "nothing is validated beforehand",
    "num_tflite_interpreters": "num_tflite_pools has taken its place",
    "wrap_session_with_no_threading_params": "requests bring no thread pools along",
}
_WARMUP_WITHOUT_EFFECT: Final = {
    "model_name": "the name is that of the model config",
    "model_version": "the version is that of the directory",
}


def read_platform_config(path: str) -> dict[str, TensorFlowConfig]:
    """
    Read a text file with a PlatformConfigMap message: platform to its configuration.

    Raises:
        InvalidArgument: The file is no such message, or the configuration of a
            platform is none for it.
        NotFound: It names a platform that does not exist.
        ServingError: The file cannot be read.
    """
    platforms = {}
    message = read_text_proto(path, platform_config_pb2.PlatformConfigMap)
    for name, platform in message.platform_configs.items():
        if name != TENSORFLOW:
            raise NotFound(f"No platform {name} for {path}")
        adapter = (
            saved_model_bundle_source_adapter_pb2.SavedModelBundleSourceAdapterConfig()
        )
        try:
            is_such = platform.source_adapter_config.Unpack(adapter)
        except DecodeError:
            is_such = False
        if not is_such:
            raise InvalidArgument(
                f"Platform {name} of {path} takes a "
                f"{adapter.DESCRIPTOR.full_name}, not "
                f"{platform.source_adapter_config.TypeName() or 'nothing'}"
            )
        _tell_what_has_no_effect(adapter.legacy_config)
        platforms[name] = _tensorflow(adapter.legacy_config)
    return platforms


def check_thread_pool_factory(path: str) -> None:
    """
    Refuse the thread pool factory that the text file at *path* names, if any.

    Raises:
        NotFound: It names one, and there is none here.
        ServingError: The file cannot be read, or is no ThreadPoolFactoryConfig.
    """
    message = read_text_proto(
        path, thread_pool_factory_config_pb2.ThreadPoolFactoryConfig
    )
    name = message.thread_pool_factory_config.TypeName()
    if name:
        raise NotFound(f"No thread pool factory takes a {name}")


def num_tflite_interpreters(num_pools: int, num_per_pool: int) -> int:
    """Return how many interpreters all pools have; each has one at least."""
    return max(num_pools, 1) * max(num_per_pool, 1)


def _tell_what_has_no_effect(
    message: session_bundle_config_pb2.SessionBundleConfig,
) -> None:
    given = {field.name for field, _ in message.ListFields()}
    for name in sorted(given & _WITHOUT_EFFECT.keys()):
        _logger.warning(
            "SessionBundleConfig.%s has no effect: %s", name, _WITHOUT_EFFECT[name]
        )
    given = {field.name for field, _ in message.model_warmup_options.ListFields()}
    for name in sorted(given & _WARMUP_WITHOUT_EFFECT.keys()):
        _logger.warning(
            "ModelWarmupOptions.%s has no effect: %s",
            name,
            _WARMUP_WITHOUT_EFFECT[name],
        )


def _load_run_options(
    message: session_bundle_config_pb2.SessionBundleConfig,
) -> bytes:
    if not message.HasField("session_run_load_threadpool_index"):
        return b""
    return config_pb2.RunOptions(
        inter_op_thread_pool=message.session_run_load_threadpool_index.value
    ).SerializeToString()


def _tensorflow(
    message: session_bundle_config_pb2.SessionBundleConfig,
) -> TensorFlowConfig:
    warmup = message.model_warmup_options
    return TensorFlowConfig(
        session_config=session_config.with_mixed_precision(
            message.session_config, message.mixed_precision
        ).SerializeToString(),
        session_target=message.session_target,
        load_run_options=_load_run_options(message),
        fixed_inputs=tuple(
            (named.name, named.tensor.SerializeToString())
            for named in message.experimental_fixed_input_tensors
        ),
        transient_ram_bytes=message.experimental_transient_ram_bytes_during_load,
        enable_session_metadata=message.enable_session_metadata,
        num_tflite_interpreters=(
            num_tflite_interpreters(
                message.num_tflite_pools, message.num_tflite_interpreters_per_pool
            )
            if message.prefer_tflite_model
            else 0
        ),
        saved_model_tags=tuple(message.saved_model_tags) or ("serve",),
        batching=(
            batching_parameters.from_proto(message.batching_parameters)
            if message.HasField("batching_parameters")
            else None
        ),
        enable_per_model_batching_parameters=message.enable_per_model_batching_params,
        enable_model_warmup=message.enable_model_warmup,
        num_request_iterations_for_warmup=(
            warmup.num_request_iterations.value
            if warmup.HasField("num_request_iterations")
            else 1
        ),
        enable_all_batch_sizes_warmup=warmup.enable_all_batch_sizes_warmup,
        num_model_warmup_threads=(
            warmup.num_model_warmup_threads.value
            if warmup.HasField("num_model_warmup_threads")
            else 1
        ),
    )
