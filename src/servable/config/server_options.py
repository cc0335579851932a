"""
Everything a server is told when it starts, as one frozen value.

The flags' units are turned here, once: durations are seconds.  The files that flags
name are read later, by the functions that return what is in them, so that making a
ServerOptions touches nothing.
"""

import dataclasses
import json
import os
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

from servable.config import (
    auth_tokens,
    batching_options,
    batching_parameters,
    channel_arguments,
    memory,
    model_options,
    model_server_config,
    monitoring_config,
    platform_config,
    session_config,
    ssl_config,
)
from servable.config.auth_tokens import AuthToken
from servable.config.batching_options import BatchingOptionsByModel
from servable.config.batching_parameters import BatchingParameters
from servable.config.model_batching import ModelBatching
from servable.config.model_options import ModelOptions
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.config.platform_config import TensorFlowConfig
from servable.config.session_config import SessionFlags
from servable.config.ssl_config import SslConfig
from servable.errors import InvalidArgument, Unimplemented

_MAX_PORT: Final = 65535
_USUAL_TAG: Final = "serve"
# What operations can do, as `servable check --ops` tells it.
FORBIDDABLE: Final = (
    *("files", "network", "python", "print", "abort"),
    *("checkpoint", "assets"),
)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """
    What a server is told.

    A port of None is not opened, 0 is any free one.  A listener is the descriptor of a
    socket that is bound already, to be used instead of binding one; None for none.
    Paths of "" name no file.
    Of models, model_config_file and model_base_path the first that is there wins;
    models may be none at first, and come later.  With rest_is_optional the gRPC API is
    served even where the REST API cannot be.  Without wait_for_models the ports open at
    once, or, for who has connected already, after hold_connections_s at the latest.
    """

    models: tuple[ModelConfig, ...] | None = None
    model_name: str = "default"
    model_base_path: str = ""
    model_platform: str = model_server_config.TENSORFLOW
    model_config_file: str = ""
    model_config_file_poll_wait_s: float | None = None
    model_options: str = ""
    max_model_memory_bytes: int = 0

    grpc_host: str = "0.0.0.0"  # noqa: S104 - what TensorFlow Serving binds
    grpc_port: int | None = 8500
    grpc_socket_path: str = ""
    grpc_listener: int | None = None
    grpc_socket_listener: int | None = None
    rest_listener: int | None = None
    rest_port: int | None = None
    rest_timeout_ms: int = 30_000
    rest_enable_cors: bool = False
    rest_api_extensions: bool = False
    rest_compression_min_bytes: int = 16 << 10
    ssl_config_file: str = ""
    rest_api_ssl_config_file: str = ""
    ssl_config_poll_wait_s: float | None = 60.0
    grpc_channel_arguments: str = ""
    use_alts_credentials: bool = False
    monitoring_config_file: str = ""
    metrics_path: str = "/metrics"
    max_message_bytes: int = (1 << 31) - 1
    max_body_bytes: int = 1 << 30
    max_in_flight_bytes: int = 0
    max_concurrent_requests: int = 16_384
    max_queued_requests: int = 4096
    max_examples: int = 65_536
    max_expanded_bytes: int = 64 << 20
    max_inflated_bytes: int = 100 << 20
    max_inflation_ratio: int = 200
    max_request_line_bytes: int = 8 << 10
    max_header_bytes: int = 16 << 10
    max_header_fields: int = 100
    max_body_chunks: int = 65_536
    max_connections: int = 16_384
    max_connections_per_peer: int = 0
    grpc_default_timeout_ms: int = 0
    abandoned_run_s: float = 5.0
    request_log_file_bytes: int = 256 << 20
    request_log_file_s: float = 3600.0
    request_log_max_files: int = 0
    request_log_queue_bytes: int = 64 << 20
    io_threads: int = 0
    compute_threads: int = 0
    enable_grpc_healthcheck_service: bool = False
    enable_profiler: bool = True
    enable_session_service: bool = False
    allow_remote_administration: bool = False
    auth_tokens_file: str = ""
    auth_tokens_poll_wait_s: float | None = 10.0
    enable_serialization_as_tensor_content: bool = False
    enable_signature_method_name_check: bool = False

    allow_version_labels_for_unavailable_models: bool = False
    file_system_poll_wait_s: float = 1.0
    model_cache_dir: str = ""
    model_cache_max_bytes: int = 0
    model_roots: tuple[str, ...] = ()
    request_log_roots: tuple[str, ...] = ()
    rollout_state_file: str = ""
    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    load_timeout_s: float = 1800.0
    canary_load: bool = False
    wait_for_models: bool = True
    hold_connections_s: float = 0.0
    rest_is_optional: bool = False
    shutdown_grace_s: float = 25.0
    lame_duck_s: float = 0.0

    saved_model_tags: tuple[str, ...] = (_USUAL_TAG,)
    op_libraries: tuple[str, ...] = ()
    forbid_ops: tuple[str, ...] = ()
    session: SessionFlags = field(default_factory=SessionFlags)
    prefer_tflite_model: bool = False
    num_tflite_pools: int = len(os.sched_getaffinity(0))
    num_tflite_interpreters_per_pool: int = 1
    platform_config_file: str = ""
    thread_pool_factory_config_file: str = ""
    enable_batching: bool = False
    batching_parameters_file: str = ""
    enable_per_model_batching_parameters: bool = False
    allow_python_models: bool = False
    allow_native_models: bool = False
    python_run_limit_s: float = 60.0
    python_memory_limit_bytes: int = 0
    batching_policy: str = batching_options.FIXED
    batching_options_file: str = ""
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1

    @classmethod
    def from_flags(
        cls, values: Mapping[str, bool | int | float | str], given: Collection[str]
    ) -> Self:
        """Turn flags into options: all *values*, and the names of those *given*."""
        flag = _Values(values)

        def if_given(name: str) -> int | None:
            return flag.integer(name) if name in given else None

        poll_s = flag.integer("model_config_file_poll_wait_seconds")
        return cls(
            model_name=flag.string("model_name"),
            model_base_path=flag.string("model_base_path"),
            model_platform=flag.string("model_platform"),
            model_config_file=flag.string("model_config_file"),
            model_config_file_poll_wait_s=poll_s if poll_s > 0 else None,
            model_options=flag.string("model_options"),
            max_model_memory_bytes=flag.integer("max_model_memory_bytes"),
            grpc_port=flag.integer("port") or None,
            grpc_socket_path=flag.string("grpc_socket_path"),
            rest_port=flag.integer("rest_api_port") or None,
            rest_timeout_ms=flag.integer("rest_api_timeout_in_ms"),
            rest_enable_cors=flag.bool("rest_api_enable_cors_support"),
            rest_api_extensions=flag.bool("rest_api_extensions"),
            rest_compression_min_bytes=flag.integer("rest_compression_min_bytes"),
            ssl_config_file=flag.string("ssl_config_file"),
            rest_api_ssl_config_file=flag.string("rest_api_ssl_config_file"),
            ssl_config_poll_wait_s=(
                flag.integer("ssl_config_poll_wait_seconds")
                if flag.integer("ssl_config_poll_wait_seconds") > 0
                else None
            ),
            grpc_channel_arguments=flag.string("grpc_channel_arguments"),
            use_alts_credentials=flag.bool("use_alts_credentials"),
            monitoring_config_file=flag.string("monitoring_config_file"),
            metrics_path=flag.string("metrics_path"),
            max_message_bytes=flag.integer("max_message_bytes"),
            max_body_bytes=flag.integer("max_body_bytes"),
            max_in_flight_bytes=flag.integer("max_in_flight_bytes"),
            max_concurrent_requests=flag.integer("max_concurrent_requests"),
            max_queued_requests=flag.integer("max_queued_requests"),
            max_examples=flag.integer("max_examples"),
            max_expanded_bytes=flag.integer("max_expanded_bytes"),
            max_inflated_bytes=flag.integer("max_inflated_bytes"),
            max_inflation_ratio=flag.integer("max_inflation_ratio"),
            max_request_line_bytes=flag.integer("max_request_line_bytes"),
            max_header_bytes=flag.integer("max_header_bytes"),
            max_header_fields=flag.integer("max_header_fields"),
            max_body_chunks=flag.integer("max_body_chunks"),
            max_connections=flag.integer("max_connections"),
            max_connections_per_peer=flag.integer("max_connections_per_peer"),
            grpc_default_timeout_ms=flag.integer("grpc_default_timeout_ms"),
            abandoned_run_s=flag.number("abandoned_run_seconds"),
            request_log_file_bytes=flag.integer("request_log_file_bytes"),
            request_log_file_s=flag.integer("request_log_file_seconds"),
            request_log_max_files=flag.integer("request_log_max_files"),
            request_log_queue_bytes=flag.integer("request_log_queue_bytes"),
            io_threads=flag.integer("io_threads"),
            compute_threads=flag.integer("compute_threads"),
            enable_grpc_healthcheck_service=flag.bool(
                "enable_grpc_healthcheck_service"
            ),
            enable_profiler=flag.bool("enable_profiler"),
            enable_session_service=flag.bool("enable_session_service"),
            allow_remote_administration=flag.bool("allow_remote_administration"),
            auth_tokens_file=flag.string("auth_tokens_file"),
            auth_tokens_poll_wait_s=(
                flag.integer("auth_tokens_poll_wait_seconds")
                if flag.integer("auth_tokens_poll_wait_seconds") > 0
                else None
            ),
            enable_serialization_as_tensor_content=flag.bool(
                "enable_serialization_as_tensor_content"
            ),
            enable_signature_method_name_check=flag.bool(
                "enable_signature_method_name_check"
            ),
            allow_version_labels_for_unavailable_models=flag.bool(
                "allow_version_labels_for_unavailable_models"
            ),
            file_system_poll_wait_s=flag.integer("file_system_poll_wait_seconds"),
            model_cache_dir=flag.string("model_cache_dir"),
            rollout_state_file=flag.string("rollout_state_file"),
            model_cache_max_bytes=flag.integer("model_cache_max_bytes"),
            model_roots=tuple(
                root for root in flag.string("model_roots").split(",") if root
            ),
            request_log_roots=tuple(
                root for root in flag.string("request_log_roots").split(",") if root
            ),
            num_load_threads=flag.integer("num_load_threads"),
            num_unload_threads=flag.integer("num_unload_threads"),
            max_num_load_retries=flag.integer("max_num_load_retries"),
            load_retry_interval_s=flag.integer("load_retry_interval_micros") / 1e6,
            load_timeout_s=flag.number("load_timeout_seconds"),
            canary_load=flag.bool("canary_load"),
            wait_for_models=flag.bool("wait_for_models"),
            shutdown_grace_s=flag.number("shutdown_grace_seconds"),
            lame_duck_s=(
                flag.number("lame_duck_seconds")
                if flag.number("lame_duck_seconds") >= 0
                else usual_lame_duck_s(os.environ)
            ),
            saved_model_tags=tuple(
                (flag.string("saved_model_tags") or _USUAL_TAG).split(",")
            ),
            op_libraries=tuple(filter(None, flag.string("load_op_library").split(","))),
            forbid_ops=tuple(filter(None, flag.string("forbid_ops").split(","))),
            session=SessionFlags(
                session_config_file=flag.string("tensorflow_session_config_file"),
                session_parallelism=if_given("tensorflow_session_parallelism"),
                intra_op_parallelism=if_given("tensorflow_intra_op_parallelism"),
                inter_op_parallelism=if_given("tensorflow_inter_op_parallelism"),
                per_process_gpu_memory_fraction=(
                    flag.number("per_process_gpu_memory_fraction")
                    if "per_process_gpu_memory_fraction" in given
                    else None
                ),
                mixed_precision=flag.string("mixed_precision"),
            ),
            prefer_tflite_model=flag.bool("prefer_tflite_model"),
            num_tflite_pools=flag.integer("num_tflite_pools"),
            num_tflite_interpreters_per_pool=flag.integer(
                "num_tflite_interpreters_per_pool"
            ),
            platform_config_file=flag.string("platform_config_file"),
            thread_pool_factory_config_file=flag.string(
                "thread_pool_factory_config_file"
            ),
            enable_batching=flag.bool("enable_batching"),
            batching_parameters_file=flag.string("batching_parameters_file"),
            enable_per_model_batching_parameters=flag.bool(
                "enable_per_model_batching_parameters"
            ),
            allow_python_models=flag.bool("allow_python_models"),
            allow_native_models=flag.bool("allow_native_models"),
            python_run_limit_s=flag.number("python_run_limit_seconds"),
            python_memory_limit_bytes=flag.integer("python_memory_limit_bytes"),
            batching_policy=flag.string("batching_policy"),
            batching_options_file=flag.string("batching_options_file"),
            enable_model_warmup=flag.bool("enable_model_warmup"),
            num_request_iterations_for_warmup=max(
                flag.integer("num_request_iterations_for_warmup"), 1
            ),
        )

    def to_json(self) -> str:
        """Return the options, without the models, for another process like this."""
        values = dataclasses.asdict(dataclasses.replace(self, models=None))
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the options of which to_json() made *text*."""
        read: dict[str, Any] = json.loads(text)
        lists = {name: tuple(v) for name, v in read.items() if isinstance(v, list)}
        return cls(**read | lists | {"session": SessionFlags(**read["session"])})

    def check(self) -> None:
        """
        Check what the options demand of each other, without opening a file.

        Raises:
            InvalidArgument: A demand is not met.
            Unimplemented: ALTS is asked for.
        """
        if self.grpc_port is None and not self.grpc_socket_path:
            raise InvalidArgument(
                "At least one of server_options.grpc_port or "
                "server_options.grpc_socket_path must be set."
            )
        if self.use_alts_credentials and self.ssl_config_file:
            raise InvalidArgument(
                "Either use_alts_credentials must be false or ssl_config_file must be "
                "empty."
            )
        has_models = self.models is not None or self.model_config_file
        if not has_models and not self.model_base_path:
            raise InvalidArgument(
                "Both server_options.model_base_path and "
                "server_options.model_config_file are empty!"
            )
        if self.batching_parameters_file and not self.enable_batching:
            raise InvalidArgument(
                "server_options.batching_parameters_file is set without setting "
                "server_options.enable_batching to true."
            )
        for name, value, unset in (
            ("batching_policy", self.batching_policy, batching_options.FIXED),
            ("batching_options_file", self.batching_options_file, ""),
        ):
            is_batched = self.enable_batching or self.platform_config_file
            if value != unset and not is_batched:
                raise InvalidArgument(f"{name} is set without enable_batching")
        self.session.check()
        self._check_numbers()
        self._check_lists()
        if self.use_alts_credentials:
            # Serving without protection where it was asked for would be worse.
            raise Unimplemented("ALTS credentials are not supported.")

    def without_rest(self) -> Self:
        """Return the same options, without the REST API."""
        return dataclasses.replace(self, rest_port=None, rest_api_ssl_config_file="")

    def read_models(self, platforms: Container[str]) -> ModelServerConfig:
        """
        Return which models to serve: as given, from the file, or the two flags.

        Raises:
            ServingError: The file cannot be read, or what is asked for is wrong.
        """
        if self.models is not None:
            config = ModelServerConfig(self.models)
            model_server_config.check(config, platforms)
            return config
        if not self.model_config_file:
            return model_server_config.single_model(
                self.model_name, self.model_base_path, self.model_platform, platforms
            )
        return model_server_config.read(self.model_config_file, platforms)

    def default_model_options(self) -> ModelOptions:
        """
        Return what counts for models whose configuration has no `servable`.

        Raises:
            InvalidArgument: The flag's text is wrong.
        """
        return model_options.parse(self.model_options)

    def read_tensorflow(self) -> TensorFlowConfig | None:
        """
        Return how SavedModels are opened; None: a platform file leaves them out.

        Raises:
            ServingError: A file cannot be read, or is wrong.
        """
        if self.thread_pool_factory_config_file:
            platform_config.check_thread_pool_factory(
                self.thread_pool_factory_config_file
            )
        if self.platform_config_file:
            platforms = platform_config.read_platform_config(self.platform_config_file)
            platform = platforms.get(model_server_config.TENSORFLOW)
            if platform is None:
                return None
            return dataclasses.replace(platform, batching_options=self._read_options())
        return TensorFlowConfig(
            session_config=session_config.read_session_config(self.session),
            saved_model_tags=self.saved_model_tags,
            batching=self._read_batching(),
            enable_per_model_batching_parameters=(
                self.enable_per_model_batching_parameters
            ),
            batching_options=self._read_options(),
            enable_model_warmup=self.enable_model_warmup,
            num_request_iterations_for_warmup=self.num_request_iterations_for_warmup,
            num_tflite_interpreters=(
                platform_config.num_tflite_interpreters(
                    self.num_tflite_pools, self.num_tflite_interpreters_per_pool
                )
                if self.prefer_tflite_model
                else 0
            ),
        )

    def read_platform_batching(self) -> ModelBatching:
        """
        Return how models that are no SavedModels are batched: as those are, but what no
        batch can hold runs by itself, as no client knows it otherwise.

        Raises:
            ServingError: A file cannot be read, or is wrong.
        """
        config = self.read_tensorflow()
        batching = config.model_batching if config else ModelBatching(None)
        return dataclasses.replace(batching, refuses_unbatchable=False)

    def engine_options(self) -> "EngineOptions":
        """
        Return what the engine is told; reads the TLS files and the monitoring file.

        Raises:
            ServingError: One of them cannot be read, or is wrong, or the REST API is
                given no port that it could have.
        """
        self._check_rest_port()
        tls, rest_tls = self.read_tls()
        return EngineOptions(
            rest_server_key=rest_tls.server_key,
            rest_server_cert=rest_tls.server_cert,
            rest_custom_ca=rest_tls.custom_ca,
            rest_client_verify=rest_tls.client_verify,
            grpc_channel_arguments=channel_arguments.parse(
                self.grpc_channel_arguments
            ).known,
            grpc_server_key=tls.server_key,
            grpc_server_cert=tls.server_cert,
            grpc_custom_ca=tls.custom_ca,
            grpc_client_verify=tls.client_verify,
            prometheus_path=(
                monitoring_config.read_prometheus_path(self.monitoring_config_file)
                if self.monitoring_config_file and self.rest_port is not None
                else ""
            ),
            max_in_flight_bytes=self.max_in_flight_bytes
            or memory.usual_in_flight_bytes(memory.memory_bytes()),
            **{
                shared.name: getattr(self, shared.name)
                for shared in dataclasses.fields(EngineOptions)
                if shared.name in type(self).__slots__
                and shared.name not in {"grpc_channel_arguments", "max_in_flight_bytes"}
            },
        )

    def read_tls(self) -> tuple[SslConfig, SslConfig]:
        """
        Return the keys of the gRPC and of the REST API; empty ones for plain text.

        Raises:
            ServingError: A file cannot be read, or has no key or certificate.
        """
        grpc, rest = (
            ssl_config.read_complete(path) if path else SslConfig()
            for path in (self.ssl_config_file, self.rest_api_ssl_config_file)
        )
        return grpc, rest

    def _check_lists(self) -> None:
        for root in self.model_roots:
            if not root.startswith(("/", "models:/")) and "://" not in root:
                raise InvalidArgument(
                    f"model_roots must be absolute paths or URIs; got {root}"
                )
        for root in self.request_log_roots:
            if not root.startswith("/"):
                raise InvalidArgument(
                    f"request_log_roots must be absolute paths; got {root}"
                )
        for effect in self.forbid_ops:
            if effect not in FORBIDDABLE:
                raise InvalidArgument(
                    f"forbid_ops must be some of {', '.join(FORBIDDABLE)}; got {effect}"
                )

    def read_tokens(self) -> tuple[AuthToken, ...]:
        """
        Return the tokens that requests have to show; none when nobody is asked.

        Raises:
            ServingError: The file cannot be read, or is wrong.
        """
        return auth_tokens.read(self.auth_tokens_file) if self.auth_tokens_file else ()

    def _check_rest_port(self) -> None:
        if self.rest_port and self.rest_port == self.grpc_port:
            raise InvalidArgument(
                "server_options.http_port cannot be same as grpc_port. Please use a "
                "different port for HTTP/REST API. Skipped exporting HTTP/REST API."
            )
        if not 0 <= (self.rest_port or 0) <= _MAX_PORT:
            raise InvalidArgument(
                f"Failed to start HTTP Server at localhost:{self.rest_port}: there is "
                "no such port"
            )

    def _check_numbers(self) -> None:
        if not self.rest_is_optional:
            self._check_rest_port()
        if not 0 <= (self.grpc_port or 0) <= _MAX_PORT:
            raise InvalidArgument("Failed to BuildAndStart gRPC server")
        for name in (
            "io_threads",
            "compute_threads",
            "max_model_memory_bytes",
            "rest_compression_min_bytes",
            "model_cache_max_bytes",
            "max_in_flight_bytes",
            "max_concurrent_requests",
            "max_queued_requests",
            "max_examples",
            "max_connections",
            "max_connections_per_peer",
            "grpc_default_timeout_ms",
            "request_log_max_files",
            "python_memory_limit_bytes",
        ):
            if getattr(self, name) < 0:
                raise InvalidArgument(
                    f"{name} must be non-negative; was {getattr(self, name)}"
                )
        for name in (
            "max_message_bytes",
            "max_body_bytes",
            "max_expanded_bytes",
            "max_inflated_bytes",
            "max_inflation_ratio",
            "max_request_line_bytes",
            "max_header_bytes",
            "max_header_fields",
            "max_body_chunks",
            "request_log_file_bytes",
            "request_log_file_s",
            "request_log_queue_bytes",
            "python_run_limit_s",
            "load_timeout_s",
            "abandoned_run_s",
        ):
            if getattr(self, name) <= 0:
                raise InvalidArgument(
                    f"{name} must be positive; was {getattr(self, name)}"
                )

    def _read_options(self) -> BatchingOptionsByModel:
        return batching_options.read(self.batching_options_file, self.batching_policy)

    def _read_batching(self) -> BatchingParameters | None:
        if not self.enable_batching:
            return None
        if not self.batching_parameters_file:
            return BatchingParameters()
        return batching_parameters.read(self.batching_parameters_file)


@dataclass(slots=True)  # not frozen: the engine's protocol has plain attributes
class EngineOptions:
    """What servable._engine.ServerOptions describes, file contents included."""

    grpc_host: str = "127.0.0.1"
    grpc_port: int | None = 0
    grpc_socket_path: str = ""
    grpc_listener: int | None = None
    grpc_socket_listener: int | None = None
    rest_listener: int | None = None
    grpc_server_key: str = field(default="", repr=False)
    grpc_server_cert: str = ""
    grpc_custom_ca: str = ""
    grpc_client_verify: bool = False
    rest_port: int | None = None
    rest_timeout_ms: int = 30_000
    rest_enable_cors: bool = False
    rest_server_key: str = field(default="", repr=False)
    rest_server_cert: str = ""
    rest_custom_ca: str = ""
    rest_client_verify: bool = False
    rest_api_extensions: bool = False
    rest_compression_min_bytes: int = 16 << 10
    io_threads: int = 0
    compute_threads: int = 0
    num_batch_threads: int = 1
    batch_thread_name: str = "batch_threads"
    enable_signature_method_name_check: bool = False
    enable_serialization_as_tensor_content: bool = False
    enable_grpc_healthcheck_service: bool = False
    enable_profiler: bool = False
    enable_session_service: bool = False
    grpc_channel_arguments: Mapping[str, int] = field(default_factory=dict)
    allow_remote_administration: bool = False
    prometheus_path: str = ""
    metrics_path: str = "/metrics"
    max_message_bytes: int = (1 << 31) - 1
    max_body_bytes: int = 1 << 30
    max_in_flight_bytes: int = memory.MOST_IN_FLIGHT_BYTES
    max_concurrent_requests: int = 16_384
    max_queued_requests: int = 4096
    max_examples: int = 65_536
    max_expanded_bytes: int = 64 << 20
    max_inflated_bytes: int = 100 << 20
    max_inflation_ratio: int = 200
    max_request_line_bytes: int = 8 << 10
    max_header_bytes: int = 16 << 10
    max_header_fields: int = 100
    max_body_chunks: int = 65_536
    max_connections: int = 16_384
    max_connections_per_peer: int = 0
    grpc_default_timeout_ms: int = 0
    abandoned_run_s: float = 5.0
    request_log_file_bytes: int = 256 << 20
    request_log_file_s: float = 3600.0
    request_log_max_files: int = 0
    request_log_queue_bytes: int = 64 << 20


def usual_lame_duck_s(environment: Mapping[str, str]) -> float:
    """
    Return how long a server that is to stop goes on taking requests.

    In Kubernetes a pod is told to stop at the same time as those who send requests to
    it are told to send no more, and the latter takes some seconds to arrive.
    """
    return 5.0 if "KUBERNETES_SERVICE_HOST" in environment else 0.0


class _Values:
    """Flag values by type; the table of flags vouches for the types."""

    def __init__(self, values: Mapping[str, bool | int | float | str]) -> None:
        self._values = values

    def string(self, name: str) -> str:
        return cast("str", self._values[name])

    def integer(self, name: str) -> int:
        return cast("int", self._values[name])

    def number(self, name: str) -> float:
        return cast("float", self._values[name])

    def bool(self, name: str) -> bool:
        return cast("bool", self._values[name])
