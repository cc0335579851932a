"""Models of a running server, listed and changed: over the API, the CLI, and here."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servable import Canary, Latest, ModelConfig, ModelOptions, Pinned, Shadow
from servable.apis import administration_pb2
from servable.cli.models import models
from servable.client import Client
from servable.config import model_server_config
from servable.config.model_server_config import ModelServerConfig
from servable.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServingError,
    Unknown,
)

Serve = Callable[..., Any]
Publish = Callable[..., None]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, publish: Publish) -> Path:
    publish(tmp_path / "m", 1)
    publish(tmp_path / "n", 1)
    return tmp_path


def run(running: Any, *arguments: str) -> Result:
    address = ("--address", f"127.0.0.1:{running.server.grpc_port}")
    environment = {"COLUMNS": "160"}
    return CliRunner().invoke(models, [*arguments, *address], env=environment)


def test_a_server_without_models_gets_some(serve: Serve, base: Path) -> None:
    running = serve(models=())
    before = running.server.models()
    running.server.add_model(ModelConfig("m", str(base / "m")))

    assert before == []
    assert running.answers("m") == [1]
    running.server.remove_model("m")
    running.wait_until(lambda: running.states("m") == ["1 END"])
    with pytest.raises(NotFound):
        running.answers("m")


def test_what_cannot_be_added_or_removed(serve: Serve, base: Path) -> None:
    running = serve()
    server = running.server
    (base / "broken" / "1").mkdir(parents=True)
    with pytest.raises(AlreadyExists, match="There is a model m already"):
        server.add_model(ModelConfig("m", str(base / "n")))
    with pytest.raises(NotFound, match="There is no model x"):
        server.remove_model("x")
    with pytest.raises(InvalidArgument, match="to have an absolute path or URI"):
        server.add_model(ModelConfig("x", "here"))
    with pytest.raises(Unknown, match="nothing in version 1"):
        server.add_model(ModelConfig("broken", str(base / "broken")))
    with pytest.raises(DeadlineExceeded):
        server.add_model(ModelConfig("late", str(base / "late")), timeout_s=0.1)
    running.wait_until(lambda: server.models()[-1].problem)
    with pytest.raises(DeadlineExceeded, match=f"{base}/late not found"):
        server.wait_until_available("late", timeout_s=0.1)
    server.wait_until_available("m", timeout_s=0.1)

    assert running.answers() == [1]


def test_a_model_can_be_changed_in_place(
    serve: Serve, base: Path, publish: Publish
) -> None:
    running = serve()
    publish(base / "m", 2)
    running.wait_until(lambda: running.states() == ["2 AVAILABLE", "1 END"])
    changed = ModelConfig("m", str(base / "m"), version_policy=Latest(2))
    running.server.add_model(changed, replace=True)

    running.wait_until(lambda: running.states() == ["2 AVAILABLE", "1 AVAILABLE"])


def test_changes_that_come_at_once_are_all_made(serve: Serve, base: Path) -> None:
    running = serve(models=())
    names = [f"m{number}" for number in range(20)]

    def add(name: str) -> None:
        running.server.add_model(ModelConfig(name, str(base / "m")))

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(model.config.name for model in running.server.models()) == sorted(
        names
    )


def test_a_reload_does_not_choose_where_files_are_written(
    serve: Serve, base: Path
) -> None:
    running = serve(request_log_roots=(str(base / "logs"),))
    for name in ("logs", "elsewhere"):
        (base / name).mkdir()

    def reload(folder: str) -> None:
        client.reload_config(
            f"""model_config_list {{ config {{
                name: "m" base_path: "{base / "m"}" model_platform: "tensorflow"
                logging_config {{
                    log_collector_config {{
                        type: "tfrecord" filename_prefix: "{base / folder}/m"
                    }}
                    sampling_config {{ sampling_rate: 1 }}
                }}
            }} }}"""
        )

    with Client(f"127.0.0.1:{running.server.grpc_port}") as client:
        reload("logs")
        with pytest.raises(PermissionDenied, match="below one of --request_log_roots"):
            reload("elsewhere")


def test_a_label_is_given_and_taken(serve: Serve) -> None:
    running = serve()
    running.server.set_labels("m", {"stable": 1, "old": 1})
    running.server.set_labels("m", {}, removed=["old"])
    with pytest.raises(FailedPrecondition, match="not currently available"):
        running.server.set_labels("m", {"canary": 2})

    assert running.answers(label="stable") == [1]
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label"):
        running.answers(label="old")


def test_a_pin_is_moved_by_promoting(
    serve: Serve, base: Path, publish: Publish
) -> None:
    publish(base / "m", 2)
    pinned = ModelConfig("m", str(base / "m"), options=ModelOptions("", Pinned(1)))
    running = serve(pinned)
    with pytest.raises(InvalidArgument, match="say which version"):
        running.server.promote("m")
    texts = [running.server.promote("m", 3)]
    running.server.promote("m", 2)
    running.wait_until(lambda: running.states() == ["2 AVAILABLE", "1 END"])
    texts.append(running.server.promote("m", 2))

    assert texts == [
        "Model m is pinned to version 3, which answers when it is available",
        "Model m is pinned to version 2",
    ]


@pytest.mark.parametrize("action", ["promote", "roll_back"])
def test_where_nothing_can_be_decided(action: str, serve: Serve) -> None:
    running = serve()

    with pytest.raises(FailedPrecondition, match="neither canary nor shadow"):
        getattr(running.server, action)("m")
    with pytest.raises(NotFound, match="There is no model x"):
        getattr(running.server, action)("x")


def test_a_config_file_does_not_undo_what_was_changed_until_it_changes(
    serve: Serve, base: Path
) -> None:
    path = base / "models.config"

    def write(*names: str) -> None:
        config = ModelServerConfig(
            tuple(ModelConfig(name, str(base / "m")) for name in names)
        )
        beside = base / "beside"
        beside.write_text(str(model_server_config.to_proto(config)))
        beside.rename(path)

    write("a")
    running = serve(
        models=None, model_config_file=str(path), model_config_file_poll_wait_s=0.02
    )
    running.server.add_model(ModelConfig("b", str(base / "m")))
    write("a", "c")
    running.wait_until(lambda: running.states("c") == ["1 AVAILABLE"])
    after = {model.config.name for model in running.server.models()}
    running.server.add_model(ModelConfig("d", str(base / "m")))
    running.client.administration.reload()

    assert after == {"a", "c"}
    assert {m.config.name for m in running.server.models()} == {"a", "c"}


def test_there_need_be_no_config_file(serve: Serve) -> None:
    with pytest.raises(FailedPrecondition, match="no --model_config_file"):
        serve().client.administration.reload()


def test_everything_can_be_asked_from_outside(
    serve: Serve, base: Path, publish: Publish
) -> None:
    running = serve()
    administration = running.client.administration
    config = model_server_config.model_to_proto(
        ModelConfig("n", str(base / "n"), options=ModelOptions("", Shadow(100)))
    )
    administration.add_model(config, wait_s=20)
    administration.set_labels("m", {"stable": 1})
    publish(base / "n", 2)
    running.wait_until(
        lambda: administration.models("n")[0].rollout.candidate_version == 2
    )
    (model,) = administration.models("n")
    administration.promote("n")
    running.wait_until(lambda: running.states("n") == ["2 AVAILABLE", "1 END"])
    administration.remove_model("m")

    assert [v.status.version for v in model.versions] == [2, 1]
    assert [v.default_percent for v in model.versions] == [0, 100]
    assert model.config == config
    assert [m.config.name for m in administration.models()] == ["n"]


def test_an_error_keeps_its_code_and_text(serve: Serve) -> None:
    administration = serve().client.administration

    with pytest.raises(NotFound, match="There is no model x"):
        administration.remove_model("x")
    with pytest.raises(InvalidArgument, match="has no name"):
        administration.add_model(
            model_server_config.model_to_proto(ModelConfig("", "/m"))
        )


@pytest.mark.parametrize(
    "method",
    administration_pb2.DESCRIPTOR.services_by_name["Administration"].methods_by_name,
)
def test_bytes_that_are_no_request_are_refused(method: str, serve: Serve) -> None:
    running = serve()
    import grpc  # noqa: PLC0415 - only here

    with grpc.insecure_channel(f"127.0.0.1:{running.server.grpc_port}") as channel:
        call: Any = channel.unary_unary(f"/servable.Administration/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff", timeout=10)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert running.answers() == [1]


def test_models_are_added_from_the_command_line(
    serve: Serve, base: Path, publish: Publish
) -> None:
    running = serve()
    added = run(running, "add", "n", str(base / "n"), "--canary", "10")
    again = run(running, "add", "n", str(base / "n"))
    publish(base / "n", 2)
    running.wait_until(lambda: "2 AVAILABLE" in running.states("n"))
    listed = run(running, "list")
    as_json = json.loads(run(running, "list", "n", "--json").output)

    assert added.exit_code == 0
    assert "version 1 is AVAILABLE" in added.output
    assert (again.exit_code, again.output) == (
        1,
        "ALREADY_EXISTS: There is a model n already\n",
    )
    lines = [" ".join(line.split()) for line in listed.output.splitlines()]
    assert "m 1 AVAILABLE 100 %" in lines
    assert "n 2 AVAILABLE 10 %" in lines
    assert "1 AVAILABLE 90 %" in lines
    assert any(line.startswith("n: canary, ") for line in lines)
    assert as_json["models"][0]["config"]["name"] == "n"


def test_a_model_that_cannot_be_loaded_is_told_of(serve: Serve, base: Path) -> None:
    running = serve()
    (base / "broken" / "1").mkdir(parents=True)
    broken = run(running, "add", "broken", str(base / "broken"))
    late = run(running, "add", "late", str(base / "late"), "--wait", "0.2")

    assert broken.exit_code == 1
    assert "version 1 is END: NOT_FOUND: nothing in version 1" in broken.output
    assert late.exit_code == 1
    assert "DEADLINE_EXCEEDED" in late.output


def test_how_far_a_fetch_is_is_told_on_the_command_line(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    mib = bytes(1 << 20)
    for name in ("model", "part"):
        store = memory.MemoryFileSystem()
        store.pipe_file(f"/fetched/1/{name}", b"adds 1" if name == "model" else mib)
    seen = threading.Event()
    read = memory.MemoryFile.read

    def wait(self: Any, size: int = -1) -> Any:
        assert seen.wait(30.0)
        return read(self, size)

    monkeypatch.setattr(memory.MemoryFile, "read", wait, raising=False)
    running = serve(models=(), model_cache_dir=str(tmp_path / "cache"))
    adding = threading.Thread(
        target=running.server.add_model,
        args=[ModelConfig("fetched", "memory://fetched")],
    )
    adding.start()
    running.wait_until(lambda: "is fetched" in run(running, "list").output)
    listed = run(running, "list").output
    seen.set()
    adding.join()

    assert "START" in listed
    assert "is fetched: 0.0 of 1.0 MiB (0 %)" in listed
    assert running.answers("fetched") == [1]
    assert "is fetched" not in run(running, "list").output
    store.store.clear()


def test_models_are_changed_from_the_command_line(
    serve: Serve, base: Path, publish: Publish
) -> None:
    running = serve(
        ModelConfig("m", str(base / "m"), options=ModelOptions("", Canary(1)))
    )
    publish(base / "m", 2)
    running.wait_until(lambda: "2 AVAILABLE" in running.states())
    outputs = [
        run(running, *arguments).output
        for arguments in (
            ("label", "m", "stable=1", "next=2"),
            ("label", "m", "--remove", "next"),
            ("promote", "m"),
            ("rollback", "m"),
            ("remove", "m"),
            ("list",),
            ("list", "m"),
        )
    ]

    assert outputs == [
        "Labels of model m are changed\n",
        "Labels of model m are changed\n",
        "Version 2 of model m was promoted: asked for\n",
        "FAILED_PRECONDITION: Model m has no candidate to roll back\n",
        "Model m is being unloaded\n",
        "No models.\n",
        "NOT_FOUND: There is no model m\n",
    ]


def test_who_waits_for_a_base_path_that_is_missing_is_told_of_it(
    serve: Serve, base: Path
) -> None:
    running = serve()
    path = base / "late.config"
    path.write_text(
        f'model_config_list {{ config {{ name: "new" base_path: "{base}/late" '
        'model_platform: "tensorflow" } }'
    )
    problem = (
        "FileSystemStoragePathSource encountered a filesystem access error: Could not "
        f"find base path {base}/late for servable late with error NOT_FOUND: "
        f"{base}/late not found\n"
    )

    added = run(running, "add", "late", str(base / "late"), "--wait=1")
    listed = run(running, "list", "late")
    sent = run(running, "reload", str(path), "--timeout=1")

    assert added.exit_code == 1
    assert added.output == (
        f"{problem}DEADLINE_EXCEEDED: Servables did not become available: late; "
        f"{problem}"
    )
    assert listed.output.endswith(f"late: {problem}")
    assert sent.exit_code == 1
    assert sent.output.startswith("DEADLINE_EXCEEDED: ")
    assert sent.output.endswith("; " + problem.replace("servable late", "servable new"))


def test_passwords_in_base_paths_are_not_shown(serve: Serve, base: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="servable[database] is not installed")
    running = serve()
    base_path = f"sqlite:///{base}/none.db?password=secret#m"

    added = run(running, "add", "d", base_path, "--wait=0").output
    running.wait_until(lambda: running.server.models()[-1].problem)
    listed = run(running, "list", "d").output

    assert added == f"Model d is looked for at sqlite:///{base}/none.db?…#m\n"
    assert "secret" not in listed
    assert "none.db?…#m" in listed


def test_a_config_file_is_sent(serve: Serve, base: Path) -> None:
    running = serve()
    config = ModelServerConfig((ModelConfig("n", str(base / "n")),))
    path = base / "n.config"
    path.write_text(str(model_server_config.to_proto(config)))

    done = run(running, "reload", str(path))

    assert (done.exit_code, done.output) == (0, f"{path} is in force\n")
    assert [m.config.name for m in running.server.models()] == ["n"]


def test_a_base_path_that_leads_up_is_refused_however_it_comes(
    serve: Serve, base: Path
) -> None:
    running = serve(model_roots=(str(base),))
    up = f"{base}/m/../n"
    path = base / "n.config"
    path.write_text(
        f'model_config_list {{ config {{ name: "n" base_path: "{up}" '
        'model_platform: "tensorflow" } }'
    )
    outputs = {
        run(running, *arguments).output
        for arguments in (("add", "n", up), ("reload", str(path)))
    }

    assert outputs == {
        f"PERMISSION_DENIED: Base path {up} has a part `..`, and where there are "
        "--model_roots it may not\n"
    }


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param(
            ("add", "x", "/x", "--pin", "1", "--canary", "5"),
            "one can be given",
            id="two policies",
        ),
        pytest.param(
            ("add", "x", "/x", "--version-policy", "best"),
            "is no version policy",
            id="no policy",
        ),
        pytest.param(
            ("add", "x", "/x", "--version-policy", "latest:two"),
            "is no version policy",
            id="no number",
        ),
        pytest.param(("label", "m", "stable"), "is no LABEL=VERSION", id="no label"),
        pytest.param(("reload", "/nowhere/x"), "No such file", id="no file"),
    ],
)
def test_what_the_command_line_refuses(
    arguments: tuple[str, ...], error: str, serve: Serve
) -> None:
    done = run(serve(), *arguments)

    assert done.exit_code == 2
    assert error in done.output


def test_rest_addresses_are_not_for_this() -> None:
    done = CliRunner().invoke(models, ["list", "--address", "http://localhost:1"])

    assert done.exit_code == 1
    assert "models are administered over gRPC" in done.output


def test_errors_of_an_unready_server_are_errors(serve: Serve, base: Path) -> None:
    running = serve()
    running.server.stop()

    with pytest.raises(ServingError, match="not running"):
        running.server.add_model(ModelConfig("n", str(base / "n")))
