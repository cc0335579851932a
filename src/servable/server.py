"""
The composition root: options in, a running server out.

Everything is made and joined here, and nowhere else.  What decides is elsewhere:
which configurations are legal in `config`, which version is loaded next in `core`,
what a request is answered in the engine.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, cast

from servable.config import model_server_config
from servable.config.model_server_config import (
    TENSORFLOW,
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
    assign_labels,
    plan,
)
from servable.config.platform_config import TensorFlowConfig
from servable.config.server_options import EngineOptions, ServerOptions
from servable.core.aspired_versions_manager import (
    AspiredVersionsManager,
    new_load_pool,
    new_unload_pool,
    num_initial_load_threads,
)
from servable.core.event_bus import EventBus
from servable.core.loader_harness import RetryPolicy
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap, ServingSnapshot
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.source_router import SourceRouter, refuse_unrouted
from servable.core.storage_path import StoragePath
from servable.errors import (
    Aborted,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
    Unknown,
    from_exception,
)
from servable.platforms.platform import (
    Platform,
    PlatformSourceAdapter,
    platform_factory,
    platform_names,
)
from servable.sources import file_system

if TYPE_CHECKING:
    from servable import _engine

_logger = logging.getLogger(__name__)

_GRPC_FAILED = "Failed to BuildAndStart gRPC server"
_NO_LIST = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
    "ModelConfigList is currently supported"
)
_UNLOAD_S = 5.0
_LOOK_FOR_NEWER_CONFIG_S = 0.25


class Engine(Protocol):
    """What the server needs of servable._engine.Engine."""

    def publish(
        self,
        servables: Mapping[str, Mapping[int, "_engine.Servable"]],
        labels: Mapping[str, Mapping[str, int]],
    ) -> None:
        """See servable._engine.Engine."""

    def set_version_state(
        self, name: str, version: int, state: int, code: int, message: str
    ) -> None:
        """See servable._engine.Engine."""

    def set_reload_handler(self, handler: Callable[[bytes], tuple[int, str]]) -> None:
        """See servable._engine.Engine."""

    def set_ready(self, ready: bool) -> None:
        """See servable._engine.Engine."""

    def start_grpc(self) -> int | None:
        """See servable._engine.Engine."""

    def start_rest(self) -> int:
        """See servable._engine.Engine."""

    def stop(self, grace_s: float) -> bool:
        """See servable._engine.Engine."""

    def metrics(self) -> str:
        """See servable._engine.Engine."""


def _new_engine(options: EngineOptions) -> Engine:
    from servable import _engine  # noqa: PLC0415 - not needed to make a Server

    try:
        engine: Engine = _engine.Engine(options)
    except _engine.EngineError as error:
        raise from_exception(error) from error
    return engine


class Server:
    """
    A model server in this process.

        with Server(ServerOptions(model_base_path="/models/m", grpc_port=0)) as server:
            print(server.grpc_port)

    Methods may be called from any thread.

    Args:
        options: what to serve, and how.
        new_engine: makes the engine; for tests.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        new_engine: Callable[[EngineOptions], Engine] = _new_engine,
    ) -> None:
        self._options = options
        self._new_engine = new_engine
        self._monitor = ServableStateMonitor()
        self._engine: Engine | None = None
        self._parts: _Parts | None = None
        self._tensorflow: TensorFlowConfig | None = None
        # Held while a configuration is checked and put in force, never while waiting
        # for models; guards _config.
        self._config_lock = threading.Lock()
        self._config = ModelServerConfig(is_list=False)
        self._is_ready = False
        self._stop_lock = threading.Lock()
        self._is_stopped = threading.Event()
        self._grpc_port: int | None = None
        self._rest_port: int | None = None

    @property
    def grpc_port(self) -> int | None:
        """The TCP port of the gRPC API; None when it is not open."""
        return self._grpc_port

    @property
    def rest_port(self) -> int | None:
        """The TCP port of the REST API; None when it is not open."""
        return self._rest_port

    @property
    def config(self) -> ModelServerConfig:
        """The configuration in force."""
        return self._config

    def states(self) -> Mapping[str, list[ServableState]]:
        """Return the last state of every version there ever was, by name."""
        return self._monitor.all_states()

    def metrics(self) -> str:
        """Return the metrics page; empty before the server was started."""
        return self._engine.metrics() if self._engine else ""

    def start(self) -> Self:
        """
        Load the models and open the ports, in the order that the options ask for.

        With wait_for_models it returns when each model has a version available, and
        opens the ports only then; without, it returns with the ports open.  Blocks.

        Raises:
            ServingError: The options or a file are wrong, a port cannot be opened,
                or a model that is waited for cannot be loaded.
            Cancelled: stop() was called meanwhile.
        """
        try:
            self._start()
        except BaseException:
            self.stop(grace_s=0.0)
            raise
        return self

    def reload(self, config: ModelServerConfig, *, wait: bool = True) -> None:
        """
        Put *config* in force; with *wait*, return when its new models are available.

        A configuration that is refused changes nothing.  One that is accepted stays
        in force even if a model of it cannot be loaded.

        Raises:
            ServingError: It is refused, or a new model cannot be loaded.
            Aborted: A newer configuration has come while this one was waited for.
        """
        self._wait(self._put_in_force(config), "model(s)", wait=wait)
        _logger.info("Finished reloading config")

    def stop(self, grace_s: float | None = None) -> bool:
        """
        Refuse new requests, finish those in flight, unload everything.

        Returns whether all requests had finished after *grace_s* seconds, by default
        shutdown_grace_s of the options.  Blocks.  Does nothing the second time.
        """
        self._is_stopped.set()
        self._monitor.close()
        with self._stop_lock:
            engine, self._engine = self._engine, None
            parts, self._parts = self._parts, None
        has_finished = True
        if grace_s is None:
            grace_s = self._options.shutdown_grace_s
        if engine is not None:
            engine.set_ready(False)
        if parts is not None:
            parts.source.stop()
        if engine is not None:
            has_finished = engine.stop(max(grace_s, 0.0))
        self._grpc_port = self._rest_port = None
        if parts is not None and parts.has_begun:
            # Servables of requests that were given up are not waited for.
            parts.manager.stop(timeout_s=_UNLOAD_S if has_finished else 0.0)
        return has_finished

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        names = [model.name for model in self._config.models]
        return f"<Server {names} gRPC {self._grpc_port} REST {self._rest_port}>"

    def _start(self) -> None:
        options = self._options
        options.check()
        engine_options = self._engine_options()
        config = options.read_models(Platforms())
        if not options.model_config_file:
            _logger.info(
                "Building single TensorFlow model file config:  model_name: %s "
                "model_base_path: %s",
                options.model_name,
                options.model_base_path,
            )
        self._tensorflow = options.read_tensorflow()
        engine = self._engine = self._new_engine(engine_options)
        engine.set_reload_handler(self._handle_reload)
        self._parts = _Parts(options, engine, self._monitor)
        self._parts.event_bus.subscribe(self._note_readiness)
        if not options.wait_for_models:
            self._open_ports(engine_options)
        change = self._put_in_force(config)
        if options.wait_for_models:
            self._wait(change, "servable(s)")
            self._open_ports(engine_options)
        self._parts.finish_initial_loads(options)
        if options.model_config_file and options.model_config_file_poll_wait_s:
            self._start_thread("config-file", self._poll_config_file)

    def _engine_options(self) -> EngineOptions:
        try:
            return self._options.engine_options()
        except ServingError as error:
            if not self._options.rest_is_optional:
                raise
            without = self._options.without_rest()
            _logger.error("REST is left out: %s", error.status_text)  # noqa: TRY400
            return without.engine_options()

    def _open_ports(self, options: EngineOptions) -> None:
        engine = self._running_engine()
        _logger.info(
            "Using SSL credentials"
            if options.grpc_server_key
            else "Using InsecureServerCredentials"
        )
        try:
            self._grpc_port = engine.start_grpc()
        except Exception as error:
            serving_error = from_exception(error)
            if not serving_error.message.startswith(_GRPC_FAILED):
                raise serving_error from error
            _logger.error("%s", serving_error.message)  # noqa: TRY400 - no traceback
            raise InvalidArgument(_GRPC_FAILED) from error
        if self._grpc_port is not None:
            _logger.info(
                "Running gRPC ModelServer at %s:%d ...",
                options.grpc_host,
                self._grpc_port,
            )
        if options.grpc_socket_path:
            _logger.info(
                "Running gRPC ModelServer at UNIX socket %s ...",
                options.grpc_socket_path,
            )
        if options.rest_port is None:
            return
        try:
            self._rest_port = engine.start_rest()
        except Exception as error:
            if not self._options.rest_is_optional:
                raise from_exception(error) from error
            _logger.error(  # noqa: TRY400 - no traceback
                "Failed to start HTTP Server at localhost:%d: %s",
                options.rest_port,
                from_exception(error).message,
            )
        else:
            _logger.info("Exporting HTTP/REST API at:localhost:%d ...", self._rest_port)

    def _put_in_force(self, config: ModelServerConfig) -> "_Change":
        """Check *config*, and tell the parts what to serve from now on."""
        with self._config_lock:
            parts = self._running_parts()
            transition = plan(self._config, config)
            if not config.is_list:
                _logger.info("Taking no action for empty config.")
                self._note_readiness()
                return _Change()
            labels = assign_labels(
                config,
                parts.serving_map.snapshot.labels,
                is_available=lambda name, version: self._monitor.is_available(
                    ServableId(name, version)
                ),
                allow_unavailable=(
                    self._options.allow_version_labels_for_unavailable_models
                ),
            )
            routes = {
                model.name: self._adapter(parts, model.platform)
                for model in (*transition.removed, *config.models)
            }
            _logger.info("Adding/updating models.")
            for model in config.models:
                _logger.info(" (Re-)adding model: %s", model.name)
            since = self._monitor.sequence
            self._config = config
            parts.serving_map.set_labels(labels)
            parts.router.set_routes(routes)
            parts.source.set_config(_source_config(config))
            parts.begin()
            _logger.info("Finished adding/updating models")
            added = tuple(model.name for model in transition.added)
            self._note_readiness()
            return _Change(added, since)

    def _wait(self, change: "_Change", what: str, *, wait: bool = True) -> None:
        """
        Wait until the models that *change* added are available.

        Raises:
            Unknown: Some of them cannot be loaded; it says which, and why.
            Aborted: A newer configuration does without one that is missing.
            Cancelled: The server is stopped.
        """
        decided: Mapping[str, ServableState] = {}
        while wait:
            try:
                decided = self._monitor.wait_until_available(
                    change.added, _LOOK_FOR_NEWER_CONFIG_S, change.since
                )
            except DeadlineExceeded:
                gone = set(change.added) - self._config.names()
                if gone:
                    raise Aborted(
                        "A newer configuration has no model(s) "
                        f"{', '.join(sorted(gone))}"
                    ) from None
            else:
                break
        failed = [s for s in decided.values() if s.manager_state is ManagerState.END]
        if failed:
            reasons = "".join(
                f"{{{s.id} due to error: {_status_text(s)}}}, " for s in failed
            )
            raise Unknown(
                f"{len(failed)} {what} did not become available: {{{reasons}}}"
            )

    def _note_readiness(self, _: object = None) -> None:
        """Tell the engine once each model in force has a version available."""
        engine = self._engine
        if engine is None or self._is_ready:
            return
        self._is_ready = all(
            any(
                state.manager_state is ManagerState.AVAILABLE
                for state in self._monitor.states_of(model.name)
            )
            for model in self._config.models
        )
        if self._is_ready:
            engine.set_ready(True)

    def _handle_reload(self, request: bytes) -> tuple[int, str]:
        """Carry out HandleReloadConfigRequest; on a thread of the engine's."""
        from google.protobuf.message import DecodeError  # noqa: PLC0415

        from servable.apis import model_server_config_pb2  # noqa: PLC0415

        try:
            message = model_server_config_pb2.ModelServerConfig.FromString(request)
            if message.WhichOneof("config") != "model_config_list":
                return Code.INVALID_ARGUMENT, _NO_LIST
            self.reload(model_server_config.from_proto(message, Platforms()))
        except ServingError as error:
            return error.code, error.message
        except DecodeError:
            return Code.INVALID_ARGUMENT, "The request is no ModelServerConfig"
        except Exception as error:
            _logger.exception("A reload failed")
            return Code.INTERNAL, str(error)
        return Code.OK, ""

    def _poll_config_file(self) -> None:
        """Read the file again and again, and put in force what has changed."""
        problem = ""
        while not self._is_stopped.wait(self._options.model_config_file_poll_wait_s):
            now = self._reload_config_file()
            if now and now != problem:
                _logger.error("%s", now)
            problem = now

    def _reload_config_file(self) -> str:
        """Return what went wrong, "" for nothing."""
        path = self._options.model_config_file
        try:
            config = model_server_config.read(path, Platforms())
        except ServingError as error:
            return f"Failed to read ModelServerConfig file: {error.status_text}"
        if config == self._config:
            return ""
        try:
            # The next change of the file must not wait for the models of this one.
            self.reload(config, wait=False)
        except ServingError as error:
            return (
                "PollFilesystemAndReloadConfig failed to ReloadConfig: "
                f"{error.status_text}"
            )
        return ""

    def _adapter(self, parts: "_Parts", platform: str) -> Target[StoragePath]:
        """Return the one adapter of *platform*, made when first needed."""
        if platform not in parts.adapters:
            parts.adapters[platform] = PlatformSourceAdapter(
                self._new_platform(platform), parts.manager
            )
        return parts.adapters[platform]

    def _new_platform(self, name: str) -> Platform:
        if name != TENSORFLOW:
            return platform_factory(name)(self._options)
        from servable.platforms import tensorflow  # noqa: PLC0415 - not always needed

        config = self._tensorflow
        if config is None:
            raise FailedPrecondition(
                f"{self._options.platform_config_file} says nothing of {TENSORFLOW}"
            )
        tensorflow.LIBRARY.directory()  # a missing TensorFlow is told of at once
        tensorflow.LIBRARY.open_in_background()
        return tensorflow.TensorFlowPlatform(
            config.session_config,
            config.saved_model_tags,
            config.batching.check_model if config.batching else lambda: None,
        )

    def _running_engine(self) -> Engine:
        if self._engine is None or self._is_stopped.is_set():
            raise FailedPrecondition("The server is stopped")
        return self._engine

    def _running_parts(self) -> "_Parts":
        if self._parts is None or self._is_stopped.is_set():
            raise FailedPrecondition("The server is stopped")
        return self._parts

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()


@dataclass(frozen=True, slots=True)
class _Change:
    """What a new configuration asks to be waited for, and since which state."""

    added: tuple[str, ...] = ()
    since: int = 0


class _Parts:
    """The pipeline from the file system to the engine."""

    def __init__(
        self, options: ServerOptions, engine: Engine, monitor: ServableStateMonitor
    ) -> None:
        def publish(snapshot: ServingSnapshot) -> None:
            servables = cast(
                "Mapping[str, Mapping[int, _engine.Servable]]", snapshot.servables
            )
            engine.publish(servables, snapshot.labels)

        def forward(state: ServableState) -> None:
            engine.set_version_state(
                state.id.name,
                state.id.version,
                state.manager_state,
                state.code,
                state.message,
            )

        self.serving_map = ServingMap(publish)
        self.event_bus: EventBus[ServableState] = EventBus()
        # The engine first: who waits for a state may ask the engine for it.
        self.event_bus.subscribe(forward)
        self.event_bus.subscribe(monitor.record)
        self._load_pool = new_load_pool(num_initial_load_threads())
        self.manager = AspiredVersionsManager(
            self.serving_map,
            self.event_bus,
            retry_policy=RetryPolicy(
                options.max_num_load_retries, options.load_retry_interval_s
            ),
            load_pool=self._load_pool,
            unload_pool=new_unload_pool(options.num_unload_threads),
        )
        self.adapters: dict[str, Target[StoragePath]] = {}
        self.router: SourceRouter[StoragePath] = SourceRouter(
            {}, SourceAdapter(refuse_unrouted, self.manager)
        )
        self.source = file_system.FileSystemStoragePathSource(
            file_system.FileSystemStoragePathSourceConfig(),
            options.file_system_poll_wait_s,
            is_available=monitor.is_available,
        )
        self.has_begun = False

    def begin(self) -> None:
        """Let it run, unless it does."""
        if not self.has_begun:
            self.has_begun = True
            self.manager.start()
            self.source.set_target(self.router)

    def finish_initial_loads(self, options: ServerOptions) -> None:
        """Load no more versions at a time than the options say, from now on."""
        self._load_pool.resize(max(options.num_load_threads, 1))


class Platforms:
    """The names of all platforms, those that others installed included."""

    def __contains__(self, name: object) -> bool:
        # Looking for what others installed takes long, and is seldom asked for.
        return name == TENSORFLOW or name in platform_names()


def _source_config(
    config: ModelServerConfig,
) -> file_system.FileSystemStoragePathSourceConfig:
    return file_system.FileSystemStoragePathSourceConfig(
        tuple(
            file_system.ServableToMonitor(
                model.name, model.base_path, version_policy(model)
            )
            for model in config.models
        )
    )


def version_policy(model: ModelConfig) -> file_system.ServableVersionPolicy:
    """Return the policy of *model* as the source of versions has it."""
    match model.version_policy:
        case Latest(num_versions):
            return file_system.Latest(num_versions)
        case All():
            return file_system.All()
        case Specific(versions):
            return file_system.Specific(versions)


def _status_text(state: ServableState) -> str:
    return state.error.status_text if state.error else "OK: "
