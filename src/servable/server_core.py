"""
The control plane: which models are served, from the file system to the engine.

ServerCore joins source, router, adapters and manager, and changes what they do when
a new configuration comes.  It knows no ports, flags or signals.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from servable.config import memory
from servable.config.model_options import ModelOptions
from servable.config.model_server_config import (
    ModelConfig,
    ModelServerConfig,
    Transition,
    assign_labels,
    effective_options,
    plan,
)
from servable.config.server_options import ServerOptions
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
from servable.core.served_versions import Canary, Shadow
from servable.core.serving_map import ServingMap, ServingSnapshot
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.source_router import SourceRouter, refuse_unrouted
from servable.core.storage_path import StoragePath
from servable.core.version_policy import AspiredVersionPolicy, BaselineFirstPolicy
from servable.engine import Engine
from servable.errors import Aborted, DeadlineExceeded, Unknown
from servable.platforms.platform import Platform, PlatformSourceAdapter
from servable.policies import aspired_version_policy, version_policy
from servable.reports import ModelReport, VersionReport, default_part
from servable.rollout_memory import RolloutMemory, default_state_file
from servable.rollouts import Rollout, Rollouts, Route
from servable.sources import versions
from servable.sources.cache import ModelCache, default_cache_directory
from servable.sources.problems import ProblemBoard
from servable.sources.registry import SourceOptions
from servable.sources.sources import Sources
from servable.sources.store import Fetched

if TYPE_CHECKING:
    from servable import _engine

_logger = logging.getLogger(__name__)

_LOOK_FOR_NEWER_CONFIG_S = 0.25
# What of a container's memory is for models, once the runtime has its own.
_PART_FOR_MODELS = 0.9
_RUNTIME_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """What there is to wait for: models, and the generation of what was added."""

    added: Mapping[str, int] = field(default_factory=dict)


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
        self._generations: dict[str, int] = {}  # in which models were added last
        self._adapters: dict[str, Target[StoragePath | Loader]] = {}
        self._rolled_out: Mapping[str, Rollout] = {}
        self._has_begun = False
        self._is_ready = False

        self._monitor = ServableStateMonitor()
        event_bus: EventBus[ServableState] = EventBus()
        # The engine first: who waits for a state may ask the engine for it.
        event_bus.subscribe(self._forward)
        event_bus.subscribe(self._monitor.record)
        event_bus.subscribe(self._note_readiness)
        self._rollouts = Rollouts(
            engine,
            self._follow_rollouts,
            RolloutMemory(
                Path(options.rollout_state_file)
                if options.rollout_state_file
                else default_state_file()
            ),
        )
        self._routes_now: Mapping[str, Route] = {}
        self._serving_map = ServingMap(self._publish)
        self._resources = _resources(options.max_model_memory_bytes)
        self._load_pool = new_load_pool(num_initial_load_threads())
        self._manager = AspiredVersionsManager(
            self._serving_map,
            event_bus,
            retry_policy=RetryPolicy(
                options.max_num_load_retries, options.load_retry_interval_s
            ),
            resources=self._resources,
            load_pool=self._load_pool,
            unload_pool=new_unload_pool(options.num_unload_threads),
        )
        self._manager.set_max_loads_per_stream(num_initial_load_threads())
        self._router: SourceRouter[StoragePath | Loader] = SourceRouter(
            {}, SourceAdapter(refuse_unrouted, self._manager)
        )
        self._problems = ProblemBoard()
        self._source = Sources(
            SourceOptions(
                options.file_system_poll_wait_s,
                ModelCache(
                    options.model_cache_dir or default_cache_directory(),
                    options.model_cache_max_bytes,
                ),
                self._monitor.is_available,
                options.model_roots,
                self._record_fetch,
                self._manager.progress,
                self._manager.failed_load,
                self._problems,
            )
        )

    @property
    def config(self) -> ModelServerConfig:
        """The configuration in force."""
        return self._config

    @property
    def is_ready(self) -> bool:
        """Whether each model has ever had a version available."""
        return self._is_ready

    def states(self) -> Mapping[str, list[ServableState]]:
        """Return the last state of every version there ever was, by name."""
        return self._monitor.all_states()

    def reports(self) -> list[ModelReport]:
        """Return what there is to know of each model in force."""
        states = self.states()
        return [
            self._report(model, states.get(model.name, []))
            for model in self._config.models
        ]

    @property
    def rollouts(self) -> Rollouts:
        """The models whose newest version has to prove itself."""
        return self._rollouts

    def put_in_force(
        self, change: Callable[[ModelServerConfig], ModelServerConfig]
    ) -> Change:
        """
        Serve what *change* makes of the configuration; return what to wait for.

        A configuration that is refused changes nothing.  Never blocks for long.

        Raises:
            ServingError: It is refused, or *change* raised it.
        """
        with self._lock:
            config = change(self._config)
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
                    model.logging.check_folder(self._options.request_log_roots)
            self._source.check(self._source_config(config))
            routes = self._routes(transition)
            _logger.info("Adding/updating models.")
            for model in config.models:
                _logger.info(" (Re-)adding model: %s", model.name)
            self._config = config
            # Before the source tells of any: what is aspired from now on counts.
            names = [model.name for model in transition.added]
            generation = self._manager.begin_generation(names)
            added = dict.fromkeys(names, generation)
            self._generations |= added
            self._rolled_out = self._rollouts.set_rules(
                self._rules(config), {m.name: m.base_path for m in config.models}
            )
            self._manager.set_version_policies(policies)
            self._set_request_logging(config)
            self._serving_map.set_labels(labels)
            self._router.set_routes(routes)
            self._source.set_config(self._source_config(config))
            self._begin()
            _logger.info("Finished adding/updating models")
            self._note_readiness()
            return Change(added)

    def addition_of(self, names: Iterable[str]) -> Change:
        """Return what to wait for until the models called *names* are available."""
        with self._lock:
            return Change({name: self._generations[name] for name in names})

    def wait_until_available(
        self, change: Change, what: str, timeout_s: float | None = None
    ) -> None:
        """
        Wait until the models that *change* added are available.  Blocks.

        Raises:
            DeadlineExceeded: *timeout_s* seconds are over; it says what is wrong with
                the base paths, as far as that is known.
            Unknown: Some of them cannot be loaded; it says how many *what*, which,
                and why.
            Aborted: A newer configuration does without one that is missing.
            Cancelled: stop() was called.
        """
        failed = [
            state
            for state in self._decisive_states(change, timeout_s)
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
        self._rollouts.stop()
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
                self._new_platform(platform),
                self._manager,
                self._options.load_timeout_s,
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
        rules = self._rules(config)
        return {
            model: BaselineFirstPolicy(made[name]) if model in rules else made[name]
            for model, name in names.items()
        }

    def _rules(self, config: ModelServerConfig) -> dict[str, Canary | Shadow]:
        """Return the models whose newest version has to prove itself, and how."""
        served = {m.name: self._options_of(m).served_versions for m in config.models}
        return {n: s for n, s in served.items() if isinstance(s, Canary | Shadow)}

    def _follow_rollouts(self) -> None:
        """Aspire and serve what was decided."""
        with self._lock:
            self._serving_map.refresh()
            # The same config once more: the source looks at once.
            self._source.set_config(self._source_config(self._config))

    def _report(self, model: ModelConfig, states: list[ServableState]) -> ModelReport:
        known = {state.id for state in states}
        # What is still being fetched, nobody manages yet.
        fetched = [
            ServableState(servable_id, ManagerState.START)
            for servable_id in self._manager.progress.ids_of(model.name)
            if servable_id not in known
        ]
        states = sorted([*states, *fetched], key=lambda s: s.id.version, reverse=True)
        answered = self._engine.answered(model.name)
        served = self._serving_map.snapshot.servables.get(model.name, {})
        route = self._routes_now.get(model.name)
        versions = tuple(
            VersionReport(
                state,
                self._manager.progress.of(state.id),
                self._resources.reserved_by(state.id),
                default_part(state.id.version, served, route),
                answered[state.id.version][3] if state.id.version in answered else {},
            )
            for state in states
        )
        return ModelReport(
            model,
            versions,
            self._rollouts.status(model.name),
            self._problems.of(model.name),
        )

    def _source_config(
        self, config: ModelServerConfig
    ) -> versions.FileSystemStoragePathSourceConfig:
        return versions.FileSystemStoragePathSourceConfig(
            tuple(
                versions.ServableToMonitor(
                    model.name,
                    model.base_path,
                    self._rolled_out.get(model.name)
                    or version_policy(model, self._options_of(model)),
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

    def _decisive_states(
        self, change: Change, timeout_s: float | None
    ) -> list[ServableState]:
        give_up_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = give_up_at - time.monotonic()
            try:
                decided = self._monitor.wait_until_available(
                    change.added, min(_LOOK_FOR_NEWER_CONFIG_S, left_s)
                )
            except DeadlineExceeded as error:
                if left_s <= _LOOK_FOR_NEWER_CONFIG_S:
                    problems = filter(None, map(self._problems.of, change.added))
                    message = "; ".join([error.message, *problems])
                    raise DeadlineExceeded(message) from None
                if gone := change.added.keys() - self._config.names():
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
        routes = self._rollouts.routes(snapshot.servables)
        self._routes_now = routes
        if routes:
            self._engine.publish(servables, snapshot.labels, routes)
        else:
            self._engine.publish(servables, snapshot.labels)

    def _forward(self, state: ServableState) -> None:
        self._engine.set_version_state(
            state.id.name,
            state.id.version,
            state.manager_state,
            state.code,
            state.message,
        )

    def _record_fetch(self, fetched: Fetched) -> None:
        self._engine.record_fetch(
            fetched.store,
            fetched.outcome,
            (fetched.came_bytes, fetched.was_there_bytes),
            fetched.seconds,
            fetched.cache_bytes,
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


def _resources(limit_bytes: int) -> ResourcePool:
    """Return what models may take: as somebody has said, or as the container allows."""
    if limit_bytes:
        return ResourcePool(limit_bytes)
    container_bytes = memory.container_limit_bytes()
    if container_bytes is None:
        return ResourcePool()
    # Estimates are rough, and nobody has asked for a limit: only what would be loaded
    # beside another version of its model, and would end the process, is refused.
    for_models = max(int(_PART_FOR_MODELS * container_bytes) - _RUNTIME_BYTES, 0)
    return ResourcePool(for_models, spares_the_only_one=True)


def _status_text(state: ServableState) -> str:
    return state.error.status_text if state.error else "OK: "
