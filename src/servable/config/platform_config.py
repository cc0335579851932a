"""
How the platforms open their models: the PlatformConfigMap message.

Given as a file it replaces everything that flags say about TensorFlow.
"""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from servable.apis import (
    platform_config_pb2,
    saved_model_bundle_source_adapter_pb2,
    session_bundle_config_pb2,
    thread_pool_factory_config_pb2,
)
from servable.config import batching_parameters
from servable.config.batching_parameters import BatchingParameters
from servable.config.model_server_config import TENSORFLOW
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument, NotFound


@dataclass(frozen=True, slots=True)
class TensorFlowConfig:
    """
    How SavedModels are opened.

    session_config is a serialized tensorflow.ConfigProto.  batching is None where
    requests run one by one.
    """

    session_config: bytes = b""
    saved_model_tags: tuple[str, ...] = ("serve",)
    batching: BatchingParameters | None = None
    enable_per_model_batching_parameters: bool = False
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    num_model_warmup_threads: int = 1


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


def _tensorflow(
    message: session_bundle_config_pb2.SessionBundleConfig,
) -> TensorFlowConfig:
    warmup = message.model_warmup_options
    return TensorFlowConfig(
        session_config=message.session_config.SerializeToString(),
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
        num_model_warmup_threads=(
            warmup.num_model_warmup_threads.value
            if warmup.HasField("num_model_warmup_threads")
            else 1
        ),
    )
