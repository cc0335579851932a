"""
The control plane: which models are served, from the file system to the engine.

ServerCore joins source, router, adapters and manager, and changes what they do when
a new configuration comes.  It knows no ports, flags or signals.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from servable import plugins
from servable.config.model_options import Canary, ModelOptions, Pinned, Shadow
from servable.config.model_server_config import (
    TENSORFLOW,
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
    Transition,
    assign_labels,
    effective_options,
    plan,
)
from servable.config.server_options import ServerOptions
from servable.core import served_versions
from servable.core.aspired_versions_manager import (
    AspiredVersionsManager,
    new_load_pool,
    new_unload_pool,
    num_initial_load_threads,
)
from servable.core.event_bus import EventBus
from servable.core.loader import Loader
from servable.core.loader_harness import RetryPolicy
from servable.core.resources import ResourcePool
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap, ServingSnapshot
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.source_router import SourceRouter, refuse_unrouted
from servable.core.storage_path import StoragePath
from servable.core.version_policy import (
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    CheckedPolicy,
)
from servable.errors import Aborted, DeadlineExceeded, InvalidArgument, Unknown
from servable.platforms.platform import (
    Platform,
    PlatformSourceAdapter,
    platform_names,
)
from servable.sources import versions
from servable.sources.cache import ModelCache, default_cache_directory
from servable.sources.registry import SourceOptions
from servable.sources.sources import Sources

if TYPE_CHECKING:
    from servable import _engine

_logger = logging.getLogger(__name__)

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

    def set_request_logging(
        self,
        models: Mapping[str, tuple[str, float, bytes, Sequence[str]]],
        complain: Callable[[str], None],
    ) -> None:
        """See servable._engine.Engine."""

    def set_profiler(self, profiler: "_engine.Profiler") -> None:
        """See servable._engine.Engine."""

    def replace_credentials(
        self,
        port: str,
        server_key: str,
        server_cert: str,
        custom_ca: str,
        client_verify: bool,
    ) -> None:
        """See servable._engine.Engine."""

    def set_ready(self, ready: bool) -> None:
        """See servable._engine.Engine."""

    def start_grpc(self) -> int | None:
        """See servable._engine.Engine."""

    def start_rest(self) -> int:
        """See servable._engine.Engine."""

    def stop(self, grace_s: float) -> bool:
        """See servable._engine.Engine."""

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        """See servable._engine.Engine."""

    def set_mlmd_uuid(self, name: str, version: int, uuid: str | None) -> None:
        """See servable._engine.Engine."""

    def observe_batching(self) -> "Sequence[_engine.QueueObservation]":
        """See servable._engine.Engine."""

    def decide_batching(
        self,
        model: str,
        version: int,
        signature: str,
        size: int,
        wait_s: float,
        in_flight: int,
    ) -> None:
        """See servable._engine.Engine."""

    def metrics(self) -> str:
        """See servable._engine.Engine."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a new configuration asks to be waited for, and since which state."""

    added: tuple[str, ...] = ()
    since: int = 0


class ServerCore:
    """
    Serves what its configuration says, by the platforms that are installed.

    Thread-safe.  Until the first configuration comes it does nothing.

    Args:
        options: how to load and to look for versions.
        engine: gets every snapshot, every state, and the readiness.
        new_platform: makes the platform of a name, when it is first needed.
        saved_model_tags: of the SavedModels, for the logs of requests.

    Raises:
        InvalidArgument: The options name no possible default for models.
    """

    def __init__(
        self,
        options: ServerOptions,
        engine: Engine,
        new_platform: Callable[[str], Platform],
        saved_model_tags: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._model_options = options.default_model_options()
        self._saved_model_tags = saved_model_tags
        self._engine = engine
        self._new_platform = new_platform
        # Held while a configuration is checked and put in force, never while waiting
        # for models; guards all that is assigned below.
        self._lock = threading.Lock()
        self._config = ModelServerConfig(is_list=False)
        self._adapters: dict[str, Target[StoragePath | Loader]] = {}
        self._has_begun = False
        self._is_ready = False

        self._monitor = ServableStateMonitor()
        event_bus: EventBus[ServableState] = EventBus()
        # The engine first: who waits for a state may ask the engine for it.
        event_bus.subscribe(self._forward)
        event_bus.subscribe(self._monitor.record)
        event_bus.subscribe(self._note_readiness)
        self._serving_map = ServingMap(self._publish)
        self._load_pool = new_load_pool(num_initial_load_threads())
        self._manager = AspiredVersionsManager(
            self._serving_map,
            event_bus,
            retry_policy=RetryPolicy(
                options.max_num_load_retries, options.load_retry_interval_s
            ),
            resources=ResourcePool(options.max_model_memory_bytes or None),
            load_pool=self._load_pool,
            unload_pool=new_unload_pool(options.num_unload_threads),
        )
        self._manager.set_max_loads_per_stream(num_initial_load_threads())
        self._router: SourceRouter[StoragePath | Loader] = SourceRouter(
            {}, SourceAdapter(refuse_unrouted, self._manager)
        )
        self._source = Sources(
            SourceOptions(
                options.file_system_poll_wait_s,
                ModelCache(
                    options.model_cache_dir or default_cache_directory(),
                    options.model_cache_max_bytes,
                ),
                self._monitor.is_available,
                options.model_roots,
            )
        )

    @property
    def config(self) -> ModelServerConfig:
        """The configuration in force."""
        return self._config

    def states(self) -> Mapping[str, list[ServableState]]:
        """Return the last state of every version there ever was, by name."""
        return self._monitor.all_states()

    def put_in_force(self, config: ModelServerConfig) -> Change:
        """
        Serve what *config* says from now on; return what may be waited for.

        A configuration that is refused changes nothing.  Never blocks for long.

        Raises:
            ServingError: It is refused.
        """
        with self._lock:
            transition = plan(self._config, config)
            if not config.is_list:
                _logger.info("Taking no action for empty config.")
                self._note_readiness()
                return Change()
            labels = assign_labels(
                config,
                self._serving_map.snapshot.labels,
                is_available=lambda name, version: self._monitor.is_available(
                    ServableId(name, version)
                ),
                allow_unavailable=(
                    self._options.allow_version_labels_for_unavailable_models
                ),
            )
            policies = self._version_policies(config)
            for model in config.models:
                if model.logging is not None:
                    model.logging.check_folder()
            source_config = self._source_config(config)
            self._source.check(source_config)
            routes = self._routes(transition)
            _logger.info("Adding/updating models.")
            for model in config.models:
                _logger.info(" (Re-)adding model: %s", model.name)
            since = self._monitor.sequence
            self._config = config
            self._manager.set_version_policies(policies)
            self._set_request_logging(config)
            self._serving_map.set_labels(labels)
            self._router.set_routes(routes)
            self._source.set_config(source_config)
            self._begin()
            _logger.info("Finished adding/updating models")
            self._note_readiness()
            return Change(tuple(model.name for model in transition.added), since)

    def wait_until_available(self, change: Change, what: str) -> None:
        """
        Wait until the models that *change* added are available.  Blocks.

        Raises:
            Unknown: Some of them cannot be loaded; it says how many *what*, which,
                and why.
            Aborted: A newer configuration does without one that is missing.
            Cancelled: stop() was called.
        """
        failed = [
            state
            for state in self._decisive_states(change)
            if state.manager_state is ManagerState.END
        ]
        if failed:
            reasons = "".join(
                f"{{{state.id} due to error: {_status_text(state)}}}, "
                for state in failed
            )
            raise Unknown(
                f"{len(failed)} {what} did not become available: {{{reasons}}}"
            )

    def give_up_waiting(self) -> None:
        """Make all who wait, now or later, fail with Cancelled."""
        self._monitor.close()

    def stop_looking(self) -> None:
        """Take no notice of new versions any more; what is loaded stays."""
        self._source.stop()

    def unload(self, timeout_s: float) -> bool:
        """
        Unload everything; return whether that was done after *timeout_s* seconds.

        Blocks.  To be called once, at the end.
        """
        with self._lock:
            has_begun = self._has_begun
        return not has_begun or self._manager.stop(timeout_s)

    def _routes(
        self, transition: Transition
    ) -> dict[str, Target[StoragePath | Loader]]:
        """Return the adapter of each model; a new platform is made here, or fails."""
        models = (*transition.removed, *transition.config.models)
        for platform in {model.platform for model in models} - self._adapters.keys():
            self._adapters[platform] = PlatformSourceAdapter(
                self._new_platform(platform), self._manager
            )
        return {model.name: self._adapters[model.platform] for model in models}

    def _version_policies(
        self, config: ModelServerConfig
    ) -> dict[str, AspiredVersionPolicy]:
        """Return the policy of each model; an unknown one is refused."""
        names = {
            model.name: self._options_of(model).aspired_version_policy
            for model in config.models
        }
        made = {name: aspired_version_policy(name) for name in set(names.values())}
        return {model: made[name] for model, name in names.items()}

    def _source_config(
        self, config: ModelServerConfig
    ) -> versions.FileSystemStoragePathSourceConfig:
        return versions.FileSystemStoragePathSourceConfig(
            tuple(
                versions.ServableToMonitor(
                    model.name,
                    model.base_path,
                    version_policy(model, self._options_of(model)),
                )
                for model in config.models
            )
        )

    def _options_of(self, model: ModelConfig) -> ModelOptions:
        return effective_options(model, self._model_options)

    def _set_request_logging(self, config: ModelServerConfig) -> None:
        self._engine.set_request_logging(
            {
                model.name: (
                    model.logging.filename_prefix,
                    model.logging.sampling_rate,
                    model.logging.sampling_config,
                    self._saved_model_tags,
                )
                for model in config.models
                if model.logging is not None
            },
            lambda problem: _logger.error("%s", problem),
        )

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._manager.start()
            self._source.set_target(self._router)

    def _decisive_states(self, change: Change) -> list[ServableState]:
        while True:
            try:
                decided = self._monitor.wait_until_available(
                    change.added, _LOOK_FOR_NEWER_CONFIG_S, change.since
                )
            except DeadlineExceeded:
                if gone := set(change.added) - self._config.names():
                    raise Aborted(
                        "A newer configuration has no model(s) "
                        f"{', '.join(sorted(gone))}"
                    ) from None
            else:
                return list(decided.values())

    def _publish(self, snapshot: ServingSnapshot) -> None:
        servables = cast(
            "Mapping[str, Mapping[int, _engine.Servable]]", snapshot.servables
        )
        self._engine.publish(servables, snapshot.labels)

    def _forward(self, state: ServableState) -> None:
        self._engine.set_version_state(
            state.id.name,
            state.id.version,
            state.manager_state,
            state.code,
            state.message,
        )

    def _note_readiness(self, _: object = None) -> None:
        """Tell the engine once each model in force has a version available."""
        if self._is_ready:
            return
        self._is_ready = all(
            any(
                state.manager_state is ManagerState.AVAILABLE
                for state in self._monitor.states_of(model.name)
            )
            for model in self._config.models
        )
        if self._is_ready:
            # From now on loading competes with serving.
            num_load_threads = max(self._options.num_load_threads, 1)
            self._load_pool.resize(num_load_threads)
            self._manager.set_max_loads_per_stream(num_load_threads)
            self._engine.set_ready(True)

    def __repr__(self) -> str:
        return f"<ServerCore {[model.name for model in self._config.models]}>"


class Platforms:
    """The names of all platforms, those that others installed included."""

    def __contains__(self, name: object) -> bool:
        # Looking for what others installed takes long, and is seldom asked for.
        return name == TENSORFLOW or name in platform_names()


def version_policy(
    model: ModelConfig, options: ModelOptions | None = None
) -> versions.ServableVersionPolicy:
    """Return the policy of *model*, with *options* or its own, as sources have it."""
    match (options or model.options or ModelOptions()).served_versions:
        case Pinned(version):
            return served_versions.Pinned(version)
        case Canary() | Shadow():
            return served_versions.Candidates()
        case None:
            pass
    match model.version_policy:
        case Latest(num_versions):
            return versions.Latest(num_versions)
        case All():
            return versions.All()
        case Specific(numbers):
            return versions.Specific(numbers)


def aspired_version_policy(name: str) -> AspiredVersionPolicy:
    """
    Return the policy that configurations call *name*; "" is the default one.

    Raises:
        InvalidArgument: None of that name is installed, or it is no policy.
        FailedPrecondition: It cannot be imported.
    """
    if not name:
        return AvailabilityPreservingPolicy()
    factory = plugins.load(plugins.VERSION_POLICIES, name)
    try:
        policy: AspiredVersionPolicy = factory()  # type: ignore[operator]
        is_policy = callable(policy.next_action)
    except Exception as error:
        raise InvalidArgument(
            f"The version policy {name} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not is_policy:
        raise InvalidArgument(f"The version policy {name} has no method next_action")
    return CheckedPolicy(name, policy)


def _status_text(state: ServableState) -> str:
    return state.error.status_text if state.error else "OK: "
