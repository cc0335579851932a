"""
The composition root: options in, a running server out.

Reads what the options name, makes engine and control plane, opens the ports, and
takes new configurations in.  What decides is elsewhere: which configurations are
legal in `config`, what is loaded next in `core`, what is answered in the engine.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from servable import plugins
from servable.administration import Administration
from servable.batching.consultant import PERIOD_S, Consultant
from servable.batching.policy import BatchingPolicy
from servable.config import (
    batching_options,
    channel_arguments,
    model_changes,
    model_server_config,
)
from servable.config.model_server_config import (
    TENSORFLOW,
    ModelConfig,
    ModelServerConfig,
)
from servable.config.platform_config import TensorFlowConfig
from servable.config.server_options import EngineOptions, ServerOptions
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.storage_path import StoragePath
from servable.credentials import Credentials
from servable.engine import Engine
from servable.errors import (
    Cancelled,
    Code,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
    from_exception,
)
from servable.platforms.platform import LoadsInProcess, Platform, platform_factory
from servable.platforms.profiler import Profiler, Session, open_session
from servable.platforms.trial import TrialPlatform, Trials
from servable.policies import Platforms
from servable.reports import ModelReport
from servable.server_core import ServerCore
from servable.sources.urls import redacted

_logger = logging.getLogger(__name__)

_GRPC_FAILED = "Failed to BuildAndStart gRPC server"
_NO_LIST = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
    "ModelConfigList is currently supported"
)
_UNLOAD_S = 5.0


def _new_engine(options: EngineOptions) -> Engine:
    from servable import _engine  # noqa: PLC0415 - not needed to make a Server

    try:
        engine: Engine = _engine.Engine(options)
    except _engine.EngineError as error:
        raise from_exception(error) from error
    return engine


def _new_profiler_session() -> Session:
    # Not always needed.
    from servable.platforms.tensorflow_library import LIBRARY  # noqa: PLC0415

    LIBRARY.open()
    return open_session(Path(LIBRARY.directory()))


class Server:
    """
    A model server in this process.

        options = ServerOptions(models=(ModelConfig("m", "/models/m"),), grpc_port=0)
        with Server(options) as server:
            print(server.grpc_port, server.models())

    It is started once.  Methods may be called from any thread.

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
        self._engine: Engine | None = None
        self._core: ServerCore | None = None
        self._tensorflow: TensorFlowConfig | None = None
        self._config_file_said: ModelServerConfig | None = None
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
        return self._core.config if self._core else ModelServerConfig(is_list=False)

    def states(self) -> Mapping[str, list[ServableState]]:
        """Return the last state of every version there ever was, by name."""
        return self._core.states() if self._core else {}

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
        self._change(lambda _: config, wait=wait)
        _logger.info("Finished reloading config")

    def models(self) -> list[ModelReport]:
        """Return what there is to know of each model in force."""
        return self._core.reports() if self._core else []

    def add_model(
        self,
        config: ModelConfig,
        *,
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """
        Serve one more model and return when it is available, or after *timeout_s*.

        With a timeout of 0 it returns at once and tells nothing of failures to load.

        With *replace* it may take the place of one of its name, whose versions go on
        as far as they are the same.

        Raises:
            AlreadyExists: There is one of its name.
            DeadlineExceeded: It is still not available; where its base path is the
                reason, it says what is wrong with that.
            ServingError: It is refused, or cannot be loaded.
        """

        def add(now: ModelServerConfig) -> ModelServerConfig:
            changed = model_changes.added(now, config, replace=replace)
            model_server_config.check(changed, Platforms())
            return changed

        made = self._running_core().put_in_force(add)
        if timeout_s is None or timeout_s > 0:
            self._running_core().wait_until_available(made, "model(s)", timeout_s)

    def remove_model(self, name: str) -> None:
        """
        Serve a model no more.  Its running requests end; this does not wait for them.

        Raises:
            NotFound: There is none of that name.
        """
        self._change(lambda now: model_changes.removed(now, name), wait=False)

    def set_labels(
        self, name: str, labels: Mapping[str, int], removed: Collection[str] = ()
    ) -> None:
        """
        Give *labels* to versions of a model, and take those *removed* away.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: A version is not available.
        """
        self._change(
            lambda now: model_changes.labelled(now, name, labels, removed), wait=False
        )

    def promote(self, name: str, version: int | None = None) -> str:
        """
        Let a version of a model answer everything, and return that in words.

        That is the candidate of a canary or shadow, or another available version; of a
        pinned model it is the version to pin it to, which may come later.

        Raises:
            NotFound: There is no such model.
            InvalidArgument: A pin is to move, and nobody says where.
            FailedPrecondition: There is nothing to promote.
        """
        core = self._running_core()
        if not model_changes.is_pinned(model_changes.model_of(core.config, name)):
            return core.rollouts.promote(name, version)
        if version is None:
            raise InvalidArgument(
                f"Model {name} is pinned; say which version it is to be pinned to"
            )

        self._change(lambda now: model_changes.pinned(now, name, version), wait=False)
        is_there = any(
            (state.id.version, state.manager_state) == (version, ManagerState.AVAILABLE)
            for state in core.states().get(name, ())
        )
        text = f"Model {name} is pinned to version {version}"
        return text if is_there else f"{text}, which answers when it is available"

    def roll_back(self, name: str) -> str:
        """
        Let the candidate of a model answer nothing any more; return that in words.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: It has no candidate.
        """
        core = self._running_core()
        model_changes.model_of(core.config, name)
        return core.rollouts.roll_back(name)

    def reload_config_file(self) -> None:
        """
        Read the model config file again, and put it in force.

        Raises:
            ServingError: There is none, it cannot be read, or it is refused.
        """
        path = self._options.model_config_file
        if not path:
            raise FailedPrecondition("The server has no --model_config_file to read")
        config = model_server_config.read(path, Platforms())
        self._config_file_said = config
        self.reload(config, wait=False)

    def wait_until_available(self, *names: str, timeout_s: float | None = None) -> None:
        """
        Wait until the models called *names*, by default all, have a version available.

        Raises:
            NotFound: There is no such model.
            Unknown: One of them cannot be loaded; it says which, and why.
            DeadlineExceeded: *timeout_s* seconds are over.
            Cancelled: stop() was called.
        """
        core = self._running_core()
        for name in names:
            model_changes.model_of(core.config, name)
        wanted = names or tuple(model.name for model in core.config.models)
        core.wait_until_available(core.addition_of(wanted), "model(s)", timeout_s)

    def stop(
        self, grace_s: float | None = None, *, unload_s: float = _UNLOAD_S
    ) -> bool:
        """
        Refuse new requests, finish those in flight, unload everything.

        Once it was ready it goes on as it is for lame_duck_s of the options before
        that, with probes that fail, so that whoever sends requests goes elsewhere.

        Returns whether all requests had finished after *grace_s* seconds, by default
        shutdown_grace_s of the options.  Blocks.  Does nothing the second time.

        Args:
            grace_s: for everything but the unloading.
            unload_s: for the unloading.
        """
        if grace_s is None:
            grace_s = self._options.shutdown_grace_s
        give_up_at = time.monotonic() + grace_s
        with self._stop_lock:
            if self._is_stopped.is_set():
                return True
            self._is_stopped.set()
        if self._core is not None:
            self._core.give_up_waiting()
            self._core.stop_looking()
        has_finished = True
        if self._engine is not None:
            self._engine.leave()
            if self._core is not None and self._core.is_ready:
                time.sleep(max(min(self._options.lame_duck_s, grace_s), 0.0))
            has_finished = self._engine.stop(max(give_up_at - time.monotonic(), 0.0))
        self._grpc_port = self._rest_port = None
        if self._core is not None:
            # Servables of requests that were given up are not waited for.
            self._core.unload(timeout_s=unload_s if has_finished else 0.0)
        return has_finished

    def try_load(
        self, platform: str, servable_id: ServableId, path: StoragePath
    ) -> None:
        """
        Load the version at *path* and warm it up, and serve nothing.

        Only on a server that is not started, in a process that ends afterwards.

        Raises:
            ServingError: It cannot be loaded.
        """
        self._tensorflow = self._options.read_tensorflow()
        self._engine = self._new_engine(EngineOptions())
        self._new_platform(platform).loader(servable_id, path).load()

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
        names = [model.name for model in self.config.models]
        return f"<Server {names} gRPC {self._grpc_port} REST {self._rest_port}>"

    def _start(self) -> None:
        options = self._options
        options.check()
        engine_options = self._engine_options()
        options = self._options
        tls = options.read_tls()
        for name in channel_arguments.parse(options.grpc_channel_arguments).unknown:
            _logger.warning(
                "grpc_channel_arguments: %s has no equivalent here and is left out",
                name,
            )
        config = options.read_models(Platforms())
        if options.models is None and not options.model_config_file:
            _logger.info(
                "Building single TensorFlow model file config:  model_name: %s "
                "model_base_path: %s",
                options.model_name,
                redacted(options.model_base_path),
            )
        self._tensorflow = options.read_tensorflow()
        policies = self._batching_policies()
        if self._tensorflow is not None and self._tensorflow.batching is not None:
            batching = self._tensorflow.batching
            engine_options.num_batch_threads = batching.num_batch_threads
            engine_options.batch_thread_name = batching.thread_pool_name
        engine = self._engine = self._new_engine(engine_options)
        credentials = Credentials(options, tls, engine)
        engine.set_reload_handler(self._handle_reload)
        engine.set_administration_handler(Administration(self).handle)
        engine.set_warning_handler(_warn)
        if options.enable_profiler:
            engine.set_profiler(Profiler(_new_profiler_session))
        core = self._core = ServerCore(
            options,
            engine,
            self._new_tried_platform,
            self._tensorflow.saved_model_tags if self._tensorflow else (),
        )
        self._config_file_said = config
        self._load_and_open(core, config, engine_options)
        if options.model_config_file:
            wait_s = options.model_config_file_poll_wait_s
            self._repeat("config-file", wait_s, self._reload_config_file)
        for name, wait_s, poll in credentials.polls():
            self._repeat(name, wait_s, poll)
        if policies:
            self._repeat("batching", PERIOD_S, Consultant(engine, policies).consult)

    def _load_and_open(
        self, core: ServerCore, config: ModelServerConfig, options: EngineOptions
    ) -> None:
        hold_s = self._options.hold_connections_s
        if self._is_stopped.is_set():  # by somebody who saw no core to stop
            raise Cancelled("The server was stopped")
        if not self._options.wait_for_models and not hold_s:
            self._open_ports(options)
            core.put_in_force(lambda _: config)
            return
        change = core.put_in_force(lambda _: config)
        if self._options.wait_for_models:
            core.wait_until_available(change, "servable(s)")
        else:
            try:
                core.wait_until_available(change, "model(s)", hold_s)
            except Cancelled:
                raise
            except ServingError as error:
                _logger.warning("Serving what there is: %s", error.status_text)
        self._open_ports(options)

    def _batching_policies(self) -> dict[str, Callable[[], BatchingPolicy]]:
        """Return what makes the policies that the options name."""
        if self._tensorflow is None or self._tensorflow.batching is None:
            return {}
        for name in self._tensorflow.batching_options.batchers:
            plugins.load(plugins.BATCHERS, name)  # one that is missing ends the start
        names = self._tensorflow.batching_options.installed_policies
        group, own = plugins.BATCHING_POLICIES, batching_options.OWN_POLICIES
        loaded = {name: plugins.load(group, name, own) for name in names}
        for name, factory in loaded.items():
            if not callable(factory):
                raise FailedPrecondition(f"The batching policy {name} cannot be made")
        return cast("dict[str, Callable[[], BatchingPolicy]]", loaded)

    def _change(
        self, change: Callable[[ModelServerConfig], ModelServerConfig], *, wait: bool
    ) -> None:
        core = self._running_core()
        made = core.put_in_force(change)
        if wait:
            core.wait_until_available(made, "model(s)")

    def _engine_options(self) -> EngineOptions:
        try:
            return self._options.engine_options()
        except ServingError as error:
            if not self._options.rest_is_optional:
                raise
            without = self._options.without_rest()
            _logger.error("REST is left out: %s", error.status_text)  # noqa: TRY400
            self._options = without
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

    def _reload_config_file(self) -> str:
        """Return what went wrong, "" for nothing."""
        path = self._options.model_config_file
        try:
            config = model_server_config.read(path, Platforms())
        except ServingError as error:
            return f"Failed to read ModelServerConfig file: {error.status_text}"
        # What was changed since in another way stays until the file changes.
        if config == self._config_file_said:
            return ""
        self._config_file_said = config
        try:
            # The next change of the file must not wait for the models of this one.
            self.reload(config, wait=False)
        except ServingError as error:
            return (
                "PollFilesystemAndReloadConfig failed to ReloadConfig: "
                f"{error.status_text}"
            )
        return ""

    def _new_tried_platform(self, name: str) -> Platform:
        platform = self._new_platform(name)
        if not self._options.canary_load or not isinstance(platform, LoadsInProcess):
            return platform
        trials = Trials(self._options.to_json(), self._options.load_timeout_s)
        return TrialPlatform(platform, trials)

    def _new_platform(self, name: str) -> Platform:
        if name != TENSORFLOW:
            return platform_factory(name)(self._options, self._running_engine())
        # Not always needed.
        from servable.platforms import tensorflow, warmup  # noqa: PLC0415
        from servable.platforms.python.transform import transformed  # noqa: PLC0415
        from servable.platforms.tensorflow_library import LIBRARY  # noqa: PLC0415

        config = self._tensorflow
        if config is None:
            raise FailedPrecondition(
                f"{self._options.platform_config_file} says nothing of {TENSORFLOW}"
            )
        # TensorFlow Lite models do without TensorFlow.
        if not config.num_tflite_interpreters:
            LIBRARY.directory()  # a missing TensorFlow is told of at once
        # Before the first model, which may need them.
        LIBRARY.load_op_libraries(self._options.op_libraries)
        LIBRARY.open_in_background()
        return tensorflow.TensorFlowPlatform(
            config.session_config,
            config.saved_model_tags,
            warmup.ModelWarmup(
                self._running_engine(),
                config.num_request_iterations_for_warmup,
                config.num_model_warmup_threads,
                all_batch_sizes=config.enable_all_batch_sizes_warmup,
            )
            if config.enable_model_warmup
            else None,
            functools.partial(transformed, self._options),
            tensorflow.SessionOptions(
                config.session_target,
                config.load_run_options,
                config.fixed_inputs,
                config.transient_ram_bytes,
                config.enable_session_metadata,
                self._running_engine(),
            ),
            config.num_tflite_interpreters,
            config.model_batching.of,
            self._options.forbid_ops,
        )

    def _running_engine(self) -> Engine:
        if self._engine is None or self._is_stopped.is_set():
            raise FailedPrecondition("The server is not running")
        return self._engine

    def _running_core(self) -> ServerCore:
        if self._core is None or self._is_stopped.is_set():
            raise FailedPrecondition("The server is not running")
        return self._core

    def _repeat(
        self, name: str, wait_s: float | None, attempt: Callable[[], str | None]
    ) -> None:
        """
        Make an *attempt* every *wait_s* seconds, if there are any, until the end.

        It may return what went wrong, which is logged when it was not so before.
        """

        def run() -> None:
            problem: str | None = ""
            while not self._is_stopped.wait(wait_s):
                now = attempt()
                if now and now != problem:
                    _logger.error("%s", now)
                problem = now

        if wait_s:
            threading.Thread(target=run, name=name, daemon=True).start()


def _warn(problem: str) -> None:
    _logger.warning("%s", problem)
