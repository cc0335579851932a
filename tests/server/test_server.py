"""
The composition root with an engine that records what it is told.

The platform is one of plain Python objects, so that these tests need neither the
compiled engine nor TensorFlow; the file system and all threads are real.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable import server as server_module
from servable.apis import model_server_config_pb2
from servable.config.logging_config import LoggingConfig
from servable.config.model_server_config import ModelConfig, ModelServerConfig
from servable.config.server_options import EngineOptions, ServerOptions
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState
from servable.core.storage_path import StoragePath
from servable.errors import (
    Aborted,
    Cancelled,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unknown,
)
from servable.server import Server

WAIT_S = 20.0


class FakeEngine:
    """Remembers what it was told, and when the ports were opened."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.served: dict[str, list[int]] = {}
        self.labels: dict[str, dict[str, int]] = {}
        self.logged: dict[str, Any] = {}
        self.is_ready = False
        self.credentials: dict[str, tuple[object, ...]] = {}
        self.tokens: list[Any] | None = None
        self.profiler: object = None
        self.events: list[str] = []
        self.reload: Callable[[bytes], tuple[int, str]] | None = None
        self.stopped_with: float | None = None
        self.grpc_error: Exception | None = None
        self.rest_error: Exception | None = None
        self.held_event: str | None = None
        self.changed = threading.Condition()

    def publish(
        self,
        servables: Mapping[str, Mapping[int, Any]],
        labels: Mapping[str, Any],
        routes: Mapping[str, Any] | None = None,
    ) -> None:
        with self.changed:
            self.routes = dict(routes or {})
            self.served = {name: sorted(of) for name, of in servables.items()}
            self.labels = {name: dict(of) for name, of in labels.items()}
            self.changed.notify_all()

    def set_version_state(
        self, name: str, version: int, state: int, code: int, message: str
    ) -> None:
        told = f"{ManagerState(state).name} {Code(code).name} {message}"
        with self.changed:
            self.events.append(f"{name}/{version} {told}")
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.events[-1] != self.held_event, WAIT_S)

    @contextlib.contextmanager
    def held_at(self, event: str) -> Iterator[None]:
        """Keep whoever tells of *event* waiting meanwhile."""
        self.held_event = event
        try:
            yield
        finally:
            with self.changed:
                self.held_event = None
                self.changed.notify_all()

    def set_reload_handler(self, handler: Callable[[bytes], tuple[int, str]]) -> None:
        self.reload = handler

    def set_request_logging(
        self, models: Mapping[str, Any], complain: Callable[[str], None]
    ) -> None:
        del complain
        self.logged = dict(models)

    def set_warning_handler(self, handler: Callable[[str], None]) -> None:
        """Nothing gets stuck here."""

    def set_profiler(self, profiler: object) -> None:
        self.profiler = profiler

    def set_auth_tokens(self, tokens: Sequence[Any]) -> None:
        with self.changed:
            self.tokens = list(tokens)
            self.changed.notify_all()

    def replace_credentials(self, port: str, *credentials: object) -> None:
        with self.changed:
            self.credentials[port] = credentials
            self.changed.notify_all()

    def set_administration_handler(
        self, handler: Callable[[str, bytes], tuple[int, str, bytes]]
    ) -> None:
        self.administer = handler

    def answered(self, name: str) -> Mapping[int, Any]:
        return dict.fromkeys(self.served.get(name, ()), (0, 0, (), {}))

    def record_decision(self, name: str, decision: str) -> None:
        self.events.append(f"{name} {decision}")

    def record_fetch(self, store: str, outcome: str, *_: object) -> None:
        self.events.append(f"{store} {outcome}")

    def set_ready(self, ready: bool) -> None:
        with self.changed:
            self.is_ready = ready
            self.changed.notify_all()

    def start_grpc(self) -> int | None:
        if self.grpc_error:
            raise self.grpc_error
        self.events.append("gRPC")
        return self.options.grpc_port and 1234

    def start_rest(self) -> int:
        if self.rest_error:
            raise self.rest_error
        self.events.append("REST")
        return 5678

    def leave(self) -> None:
        self.is_ready = False
        self.events.append("leave")

    def stop(self, grace_s: float) -> bool:
        self.events.append("stop")
        self.stopped_with = grace_s
        return True

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        pass

    def set_mlmd_uuid(self, name: str, version: int, uuid: str | None) -> None:
        pass

    def observe_batching(self) -> list[Any]:
        return []

    def decide_batching(self, *_: Any) -> None:
        pass

    def metrics(self) -> str:
        return "page"

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), self


class EngineError(Exception):
    """As the compiled engine raises."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message


class FilePlatform:
    """A version is a directory with a file `model`; an empty one cannot be loaded."""

    name = "tensorflow"

    def loader(self, _: ServableId, path: StoragePath) -> "FileLoader":
        return FileLoader(path)


class FileLoader:
    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def estimate_resources(self) -> int:
        return 0

    def load(self) -> None:
        if not (self._path / "model").exists():
            raise NotFound(f"nothing at {self._path.name}")

    def servable(self) -> object:
        return self._path

    def unload(self) -> None:
        pass


@pytest.fixture(autouse=True)
def platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server_module.Server, "_new_platform", lambda _, __: FilePlatform()
    )


@pytest.fixture
def engines() -> list[FakeEngine]:
    return []


@pytest.fixture
def serve(engines: list[FakeEngine]) -> Iterator[Callable[..., Server]]:
    """Make a server that is stopped when the test is over."""
    servers: list[Server] = []

    def new_engine(options: EngineOptions) -> FakeEngine:
        engines.append(FakeEngine(options))
        return engines[-1]

    def make(**options: Any) -> Server:
        defaults = {"max_num_load_retries": 0, "file_system_poll_wait_s": 0.05}
        servers.append(
            Server(ServerOptions(**defaults | options), new_engine=new_engine)
        )
        return servers[-1]

    yield make
    for server in servers:
        server.stop(grace_s=0)


def publish(path: Path, *versions: int, good: bool = True) -> Path:
    for version in versions:
        (path / str(version)).mkdir(parents=True)
        if good:
            (path / str(version) / "model").touch()
    return path


def listing(**paths: Path) -> ModelServerConfig:
    return ModelServerConfig(
        tuple(ModelConfig(name, str(path)) for name, path in paths.items())
    )


Serve = Callable[..., Server]


def test_ports_open_when_models_are_loaded(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    server = serve(model_base_path=str(publish(tmp_path, 1, 2)), rest_port=0)

    with server:
        (engine,) = engines
        assert (server.grpc_port, server.rest_port) == (1234, 5678)
        assert engine.served == {"default": [2]}
        was_ready = engine.is_ready
        assert engine.events[-3:] == ["default/2 AVAILABLE OK ", "gRPC", "REST"]
        assert server.metrics() == "page"

    assert was_ready
    assert not engine.is_ready
    assert engine.stopped_with == pytest.approx(ServerOptions().shutdown_grace_s, 0.1)
    assert server.grpc_port is None


def test_the_versions_of_a_stopped_server_are_unloaded(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    with serve(model_base_path=str(publish(tmp_path, 1))):
        pass

    assert engines[0].events[-1] == "default/1 END OK "


def test_a_model_that_cannot_be_loaded_ends_the_start(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    server = serve(
        model_name="m", model_base_path=str(publish(tmp_path, 7, good=False))
    )

    with pytest.raises(Unknown) as error:
        server.start()

    assert error.value.message == (
        "1 servable(s) did not become available: {{{name: m version: 7} due to error: "
        "NOT_FOUND: nothing at 7}, }"
    )
    assert "gRPC" not in engines[0].events
    assert engines[0].stopped_with is not None


def test_without_waiting_ports_open_first_and_readiness_comes_later(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    server = serve(model_base_path=str(tmp_path / "m"), wait_for_models=False)

    server.start()
    assert engines[0].events == ["gRPC"]
    assert not engines[0].is_ready

    publish(tmp_path / "m", 1)
    engines[0].wait_until(lambda: engines[0].is_ready)


def test_a_start_that_waits_can_be_stopped(serve: Serve, tmp_path: Path) -> None:
    server = serve(model_base_path=str(tmp_path / "none"))
    outcome: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except Cancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    server.stop()
    thread.join(WAIT_S)

    assert len(outcome) == 1


def test_no_models_start_at_once(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = tmp_path / "c"
    path.write_text("\n")

    serve(model_config_file=str(path)).start()

    assert engines[0].is_ready


def test_the_detail_of_a_port_that_is_taken_is_logged(
    serve: Serve,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: FakeEngine) -> None:
        raise EngineError(
            Code.INVALID_ARGUMENT, "Failed to BuildAndStart gRPC server: in use"
        )

    monkeypatch.setattr(FakeEngine, "start_grpc", fail)

    with pytest.raises(InvalidArgument) as error:
        serve(model_base_path=str(publish(tmp_path, 1))).start()

    assert error.value.message == "Failed to BuildAndStart gRPC server"
    assert "Failed to BuildAndStart gRPC server: in use" in caplog.messages


def test_rest_that_cannot_start_is_fatal_unless_optional(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: FakeEngine) -> None:
        raise EngineError(Code.INVALID_ARGUMENT, "in use")

    monkeypatch.setattr(FakeEngine, "start_rest", fail)
    options = {"model_base_path": str(publish(tmp_path, 1)), "rest_port": 0}

    with pytest.raises(InvalidArgument, match="in use"):
        serve(**options).start()
    server = serve(**options, rest_is_optional=True).start()

    assert server.grpc_port == 1234
    assert server.rest_port is None


@pytest.mark.parametrize(
    ("rest_port", "problem"),
    [
        pytest.param(
            9000,
            "server_options.http_port cannot be same as grpc_port. ",
            id="one port for both",
        ),
        pytest.param(
            70000,
            "Failed to start HTTP Server at localhost:70000",
            id="a number that no port has",
        ),
    ],
)
def test_a_port_that_rest_cannot_have_is_fatal_unless_rest_is_optional(
    serve: Serve,
    engines: list[FakeEngine],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rest_port: int,
    problem: str,
) -> None:
    options = {
        "model_base_path": str(publish(tmp_path, 1)),
        "grpc_port": 9000,
        "rest_port": rest_port,
    }

    with pytest.raises(InvalidArgument, match=problem):
        serve(**options).start()
    serve(**options, rest_is_optional=True).start()

    assert engines[-1].options.rest_port is None
    assert problem in caplog.text


def test_a_bad_monitoring_file_is_fatal_unless_rest_is_optional(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    options = {
        "model_base_path": str(publish(tmp_path / "m", 1)),
        "monitoring_config_file": str(tmp_path / "none"),
        "rest_port": 0,
    }

    with pytest.raises(NotFound):
        serve(**options).start()
    serve(**options, rest_is_optional=True).start()

    assert engines[-1].options.rest_port is None


def test_a_reload_adds_and_removes_models(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    a, b = publish(tmp_path / "a", 1), publish(tmp_path / "b", 3)
    server = serve(model_name="a", model_base_path=str(a)).start()

    server.reload(listing(b=b))

    engines[0].wait_until(lambda: engines[0].served == {"b": [3]})
    assert server.config == listing(b=b)


def test_a_model_can_be_removed_and_added_again(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    a, b = publish(tmp_path / "a", 1), publish(tmp_path / "b", 3)
    server = serve(model_name="a", model_base_path=str(a)).start()
    server.reload(listing(b=b))
    engines[0].wait_until(lambda: engines[0].served == {"b": [3]})

    server.reload(listing(a=a, b=b))

    assert engines[0].served == {"a": [1], "b": [3]}


@pytest.mark.parametrize(
    "event",
    [
        pytest.param("a/1 UNLOADING OK ", id="which is known as available still"),
        pytest.param("a/1 START OK ", id="which has come to its end meanwhile"),
    ],
)
def test_a_model_that_is_taken_back_does_not_count_by_its_old_version(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path, event: str
) -> None:
    a, b = publish(tmp_path / "a", 1), publish(tmp_path / "b", 3)
    server = serve(model_name="a", model_base_path=str(a)).start()
    (engine,) = engines
    core = server._core
    assert core is not None
    # The engine hears of a state first: what the server knows stays as it is.
    with engine.held_at(event):
        core.put_in_force(lambda _: listing(b=b))
        change = core.put_in_force(lambda _: listing(a=a, b=b))
        engine.wait_until(lambda: engine.events[-1] == event)

        with pytest.raises(DeadlineExceeded):
            core.wait_until_available(change, "model(s)", timeout_s=0)
        with pytest.raises(DeadlineExceeded):
            server.wait_until_available("a", timeout_s=0)

    core.wait_until_available(change, "model(s)", WAIT_S)
    assert engine.served["a"] == [1]
    assert [told.split()[1] for told in engine.events if told.startswith("a/1")] == [
        *("START", "LOADING", "AVAILABLE", "UNLOADING", "END"),
        *("START", "LOADING", "AVAILABLE"),
    ]


def test_a_reload_whose_model_fails_says_so_and_stays_in_force(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    a, b = publish(tmp_path / "a", 1), publish(tmp_path / "b", 3, good=False)
    server = serve(model_name="a", model_base_path=str(a)).start()

    with pytest.raises(Unknown) as error:
        server.reload(listing(a=a, b=b))

    assert error.value.message == (
        "1 model(s) did not become available: {{{name: b version: 3} due to error: "
        "NOT_FOUND: nothing at 3}, }"
    )
    assert engines[0].served == {"a": [1]}
    (tmp_path / "b" / "4").mkdir()
    (tmp_path / "b" / "4" / "model").touch()
    engines[0].wait_until(lambda: engines[0].served == {"a": [1], "b": [4]})


def test_a_reload_that_waits_for_nothing_holds_up_no_other(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    a = publish(tmp_path / "a", 1)
    server = serve(model_name="a", model_base_path=str(a)).start()
    outcome: list[BaseException] = []

    def wait_for_nothing() -> None:
        try:
            server.reload(listing(a=a, n=tmp_path / "none"))
        except Aborted as error:
            outcome.append(error)

    thread = threading.Thread(target=wait_for_nothing)
    thread.start()
    # Each configuration that comes into force is published.
    engines[0].wait_until(lambda: server.config != listing(a=a))
    server.reload(listing(a=a))
    thread.join(WAIT_S)

    assert [str(error) for error in outcome] == [
        "A newer configuration has no model(s) n"
    ]


def labelled(path: Path, **labels: int) -> ModelServerConfig:
    return ModelServerConfig((ModelConfig("m", str(path), version_labels=labels),))


def test_labels_are_published_with_the_models(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = publish(tmp_path, 1)
    server = serve(model_name="m", model_base_path=str(path)).start()

    server.reload(labelled(path, stable=1))
    assert engines[0].labels == {"m": {"stable": 1}}

    server.reload(labelled(path))
    assert engines[0].labels == {}


def test_a_refused_label_changes_nothing(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = publish(tmp_path / "m", 1)
    server = serve(model_name="m", model_base_path=str(path)).start()
    server.reload(labelled(path, stable=1))
    before = server.config

    with pytest.raises(FailedPrecondition):
        server.reload(
            ModelServerConfig(
                (
                    ModelConfig("m", str(path), version_labels={"stable": 9}),
                    ModelConfig("n", str(path)),
                )
            )
        )

    assert server.config is before
    assert engines[0].labels == {"m": {"stable": 1}}
    assert not server.states().get("n")


def test_a_reload_changes_what_is_logged_unless_it_is_refused(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = publish(tmp_path / "m", 1)
    server = serve(model_name="m", model_base_path=str(path)).start()

    def logged_to(prefix: Path) -> ModelServerConfig:
        logging = LoggingConfig(str(prefix), 0.5, b"sampling")
        return ModelServerConfig((ModelConfig("m", str(path), logging=logging),))

    assert engines[0].logged == {}
    server.reload(logged_to(tmp_path / "log"))
    with pytest.raises(NotFound):
        server.reload(logged_to(tmp_path / "missing" / "log"))

    expected = (str(tmp_path / "log"), 0.5, b"sampling", ("serve",))
    assert engines[0].logged == {"m": expected}


def test_a_label_may_wait_where_that_is_allowed(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = publish(tmp_path, 1)
    server = serve(
        model_name="m",
        model_base_path=str(path),
        allow_version_labels_for_unavailable_models=True,
    ).start()

    server.reload(labelled(path, next=2))

    assert engines[0].labels == {"m": {"next": 2}}


def request(**paths: Path) -> bytes:
    message = model_server_config_pb2.ModelServerConfig()
    message.model_config_list.SetInParent()
    for name, path in paths.items():
        message.model_config_list.config.add(
            name=name, base_path=str(path), model_platform="tensorflow"
        )
    return message.SerializeToString()


def test_reload_requests_are_answered_with_a_status(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    path = publish(tmp_path, 1)
    serve(model_name="m", model_base_path=str(path)).start()
    handle = engines[0].reload
    assert handle is not None

    assert handle(request(m=path, n=path)) == (Code.OK, "")
    assert handle(request(q=Path("rel"))) == (
        Code.INVALID_ARGUMENT,
        "Expected model q to have an absolute path or URI; got base_path()=rel",
    )
    assert handle(b"") == (
        Code.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
        "ModelConfigList is currently supported",
    )
    assert handle(b"\xff")[0] == Code.INVALID_ARGUMENT
    assert engines[0].served == {"m": [1], "n": [1]}


def test_an_empty_list_unloads_everything(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    serve(model_name="m", model_base_path=str(publish(tmp_path, 1))).start()
    assert engines[0].reload is not None

    assert engines[0].reload(request()) == (Code.OK, "")

    engines[0].wait_until(lambda: engines[0].served == {})


def config_text(**paths: Path) -> str:
    models = [
        f"config {{ name: '{name}' base_path: '{path}' model_platform: 'tensorflow' }}"
        for name, path in paths.items()
    ]
    return f"model_config_list {{ {' '.join(models)} }}"


def test_the_config_file_is_read_again_and_again(
    serve: Serve, engines: list[FakeEngine], tmp_path: Path
) -> None:
    a, b = publish(tmp_path / "a", 1), publish(tmp_path / "b", 3)
    path = tmp_path / "c"
    path.write_text(config_text(a=a))
    serve(model_config_file=str(path), model_config_file_poll_wait_s=0.02).start()

    write(path, config_text(a=a, missing=tmp_path / "none"))
    write(path, "garbage {")
    write(path, config_text(b=b))

    engines[0].wait_until(lambda: engines[0].served == {"b": [3]})


def write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def test_a_config_file_that_goes_bad_is_told_of_once(
    serve: Serve,
    engines: list[FakeEngine],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a = publish(tmp_path / "a", 1)
    path = tmp_path / "c"
    path.write_text(config_text(a=a))
    server = serve(
        model_config_file=str(path), model_config_file_poll_wait_s=0.01
    ).start()
    is_told = threading.Event()
    monkeypatch.setattr(
        server_module._logger, "error", told_to(server_module._logger.error, is_told)
    )
    path.unlink()
    told = "Failed to read ModelServerConfig file: NOT_FOUND: "

    assert is_told.wait(WAIT_S)
    b = publish(tmp_path / "b", 3)
    write(path, config_text(b=b))
    engines[0].wait_until(lambda: engines[0].served == {"b": [3]})

    assert sum(told in text for text in caplog.messages) == 1
    assert server.config == listing(b=b)


def told_to(log: Callable[..., None], is_told: threading.Event) -> Callable[..., None]:
    def and_set(*args: object) -> None:
        log(*args)
        is_told.set()

    return and_set


def test_options_are_checked_before_anything_is_made(
    serve: Serve, engines: list[FakeEngine]
) -> None:
    with pytest.raises(InvalidArgument, match="are empty!"):
        serve().start()

    assert not engines


def test_a_stopped_server_takes_no_reload(serve: Serve, tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    server = serve(model_base_path=str(path)).start()
    server.stop()

    with pytest.raises(FailedPrecondition, match="not running"):
        server.reload(listing(m=path))
