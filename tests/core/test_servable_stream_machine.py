"""
What holds for a servable stream whatever happens to it, in whatever order.

A machine of hypothesis aspires, lets loads and unloads end well or badly and lets
time go by, and checks each effect against the promises of the stream.  Three
streams with a fault put in show that the machine can fail.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from servable.core.lifecycle import State
from servable.core.loader import Loader
from servable.core.loader_harness import LoaderHarness, RetryPolicy
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_stream import (
    Effect,
    PublishState,
    Release,
    Reserve,
    RetryAt,
    ServableStream,
    Serve,
    StartLoad,
    StartUnload,
    Withdraw,
)
from servable.core.version_policy import (
    Action,
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    Unload,
    VersionSnapshot,
)
from servable.errors import Cancelled, NotFound, ServingError
from servable.testing import FakeLoader

SETTINGS = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
RETRY = RetryPolicy(max_num_load_retries=2, load_retry_interval_s=10.0)
WANTED = st.dictionaries(st.integers(1, 4), st.integers(0, 2), max_size=4)


class StreamMachine(RuleBasedStateMachine):
    """A stream in a world that does what the stream asks for, sooner or later."""

    policy: AspiredVersionPolicy = AvailabilityPreservingPolicy()
    stream_class: type[ServableStream] = ServableStream

    def __init__(self) -> None:
        super().__init__()
        self.stream = self.stream_class("m", self.policy, RETRY)
        self.now = 0.0
        self.max_loads = 1
        self.aspired: dict[ServableId, int] = {}
        self.reserving: list[ServableId] = []
        self.loading: dict[ServableId, Loader] = {}
        self.unloading: dict[ServableId, Loader] = {}
        self.retries: list[RetryAt] = []
        self.loaded: dict[ServableId, Loader] = {}
        self.served: dict[ServableId, Loader] = {}
        self.reserved: set[ServableId] = set()
        self.public: dict[ServableId, ManagerState] = {}
        self.errors: dict[ServableId, ServingError | None] = {}
        self.generation = 0
        self.generations: dict[ServableId, int] = {}
        self.unloading_since: dict[ServableId, int] = {}

    @rule(wanted=WANTED, is_new=st.booleans())
    def aspire(self, wanted: dict[int, int], is_new: bool) -> None:
        self.generation += is_new
        versions = []
        for version, attempt in wanted.items():
            loader = FakeLoader((version, attempt))
            versions.append(
                ServableData(ServableId("m", version), loader, attempt=attempt)
            )
        self.aspired = {ServableId("m", v): a for v, a in wanted.items()}
        self.do(self.stream.aspire(versions, self.now, self.generation))

    @rule(count=st.integers(1, 3))
    def set_max_loads(self, count: int) -> None:
        self.max_loads = count
        self.do(self.stream.set_max_loads(count, self.now))

    @precondition(lambda self: self.reserving)
    @rule(ok=st.booleans(), pick=st.integers(0, 9))
    def reserve(self, ok: bool, pick: int) -> None:
        servable_id = self.reserving.pop(pick % len(self.reserving))
        if ok:
            self.reserved.add(servable_id)
            self.do(self.stream.approve(servable_id, self.now))
        else:
            error = NotFound("cannot be estimated")
            self.do(self.stream.load_finished(servable_id, error, self.now))

    @precondition(lambda self: self.reserving)
    @rule(pick=st.integers(0, 9))
    def refuse(self, pick: int) -> None:
        servable_id = self.reserving.pop(pick % len(self.reserving))
        self.do(self.stream.refuse(servable_id, NotFound("no room"), self.now))

    @rule(version=st.integers(1, 4))
    def there_is_room_again(self, version: int) -> None:
        self.do(self.stream.room_again(ServableId("m", version), self.now))

    @precondition(lambda self: self.loading)
    @rule(ok=st.booleans(), pick=st.integers(0, 9))
    def load(self, ok: bool, pick: int) -> None:
        servable_id = sorted(self.loading)[pick % len(self.loading)]
        loader = self.loading.pop(servable_id)
        if ok:
            self.loaded[servable_id] = loader
        error = None if ok else NotFound("no graph")
        self.do(self.stream.load_finished(servable_id, error, self.now))

    @precondition(lambda self: self.unloading)
    @rule(ok=st.booleans(), pick=st.integers(0, 9))
    def unload(self, ok: bool, pick: int) -> None:
        servable_id = sorted(self.unloading)[pick % len(self.unloading)]
        assert self.loaded.pop(servable_id) is self.unloading.pop(servable_id)
        error = None if ok else NotFound("stuck")
        self.do(self.stream.unload_finished(servable_id, error, self.now))

    @rule(seconds=st.sampled_from([0.0, 5.0, 10.0]))
    def let_time_go_by(self, seconds: float) -> None:
        self.now += seconds
        due = [r for r in self.retries if r.due_at <= self.now]
        self.retries = [r for r in self.retries if r.due_at > self.now]
        for retry in due:
            self.do(self.stream.retry_due(retry.id, self.now))

    @invariant()
    def what_is_served_is_loaded_and_ready(self) -> None:
        ready = {v.id for v in self.stream.versions if v.state is State.READY}
        assert set(self.served) == ready
        assert all(self.loaded[i] is loader for i, loader in self.served.items())

    @invariant()
    def what_is_over_holds_nothing(self) -> None:
        for servable_id, state in self.public.items():
            if state is ManagerState.END and servable_id not in self.reserving:
                assert servable_id not in self.reserved
                assert servable_id not in self.served

    def teardown(self) -> None:
        """Let everything that is under way end well: the aspired come true."""
        for _ in range(100):
            if self.reserving:
                self.reserve(ok=True, pick=0)
            elif self.loading:
                self.load(ok=True, pick=0)
            elif self.unloading:
                self.unload(ok=True, pick=0)
            elif self.retries:
                self.let_time_go_by(10.0)
            else:
                break
        available = {i for i, s in self.public.items() if s is ManagerState.AVAILABLE}
        failed = {i for i in self.aspired if self.errors.get(i) is not None}
        wanted = set(self.aspired)
        assert wanted - failed <= available
        assert not wanted & failed & available
        assert all(self.generations[i] == self.generation for i in wanted)
        assert available == set(self.served)
        # One unwanted version may be left, and only in place of what has failed.
        assert len(available - wanted) <= (1 if wanted and wanted <= failed else 0)

    def do(self, effects: Sequence[Effect]) -> None:  # noqa: C901, PLR0912 - one arm each
        for effect in effects:
            match effect:
                case PublishState(state):
                    self.check_order(state)
                    self.public[state.id] = state.manager_state
                    self.generations[state.id] = state.generation
                    self.errors[state.id] = state.error
                    if state.manager_state is ManagerState.AVAILABLE:
                        assert state.id in self.served
                    if isinstance(state.error, Cancelled):
                        assert state.id not in self.served
                case Reserve(servable_id, _, retry):
                    assert retry <= RETRY.max_num_load_retries
                    self.check_alone()
                    self.reserving.append(servable_id)
                case StartLoad(servable_id, loader, retry):
                    assert retry <= RETRY.max_num_load_retries
                    assert servable_id in self.reserved
                    assert servable_id not in {*self.loading, *self.loaded}
                    if retry:
                        self.check_alone()
                    self.loading[servable_id] = loader
                case RetryAt():
                    assert effect.due_at > self.now
                    self.retries.append(effect)
                case Serve(servable_id, loader):
                    self.served[servable_id] = loader
                case Withdraw(servable_id):
                    assert self.public[servable_id] is ManagerState.UNLOADING
                    del self.served[servable_id]
                    if any(v.is_aspired for v in self.stream.versions):
                        assert self.served, "the last version went, and one is aspired"
                case StartUnload(servable_id, loader):
                    assert servable_id not in self.served
                    assert self.loaded[servable_id] is loader
                    self.unloading[servable_id] = loader
                    self.unloading_since[servable_id] = self.generation
                case Release(servable_id):
                    self.reserved.discard(servable_id)

    def check_alone(self) -> None:
        """No attempt begins while as many as may run that are wanted."""
        wanted = {v.id for v in self.stream.versions if v.is_aspired}
        assert len(wanted & {*self.reserving, *self.loading}) < self.max_loads

    def check_order(self, state: ServableState) -> None:
        before = self.public.get(state.id, ManagerState.END)
        since = self.unloading_since.pop(state.id, self.generation)
        if state.manager_state is ManagerState.END:
            assert state.generation <= since, "the end of an old life is told as new"
        if before is state.manager_state:
            assert state.generation > self.generations[state.id]
        elif before is ManagerState.END:
            assert state.manager_state is ManagerState.START
        else:
            assert state.manager_state > before


def run(machine: type[StreamMachine], **changes: Any) -> None:
    run_state_machine_as_test(machine, settings=settings(SETTINGS, **changes))


def test_a_stream_keeps_its_promises() -> None:
    run(StreamMachine)


class _UnloadsTooEarly(AvailabilityPreservingPolicy):
    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        surplus = [v for v in versions if not v.is_aspired and v.state is State.READY]
        return Unload(surplus[0].id) if surplus else super().next_action(versions)


class _TakesBackWhateverItGets(ServableStream):
    def _aspire_again(self, harness: LoaderHarness, data: ServableData[Loader]) -> None:
        del data
        harness.is_aspired = True


class _ForgetsToCancel(ServableStream):
    def _cancel_unaspired(self) -> list[Effect]:
        return []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"policy": _UnloadsTooEarly()}, id="a policy that unloads early"),
        pytest.param(
            {"stream_class": _TakesBackWhateverItGets},
            id="a stream that takes back what is being unloaded",
        ),
        pytest.param(
            {"stream_class": _ForgetsToCancel}, id="a stream that cancels no retries"
        ),
    ],
)
def test_the_machine_finds(fault: dict[str, object]) -> None:
    broken = type("Broken", (StreamMachine,), fault)

    with pytest.raises((AssertionError, ServingError)):
        # The first example will do: nobody reads it, so it need not be short.
        run(broken, database=None, derandomize=True, phases=[Phase.generate])
