"""The programs in docs/management.md do what they are there for."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import servable
from servable.server import Server

PAGE = Path(__file__).parents[2] / "docs" / "management.md"
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def test_a_client_lists_models(
    serve: Callable[..., Any],
    publish: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(tmp_path / "m", 3)
    running = serve()
    (program,) = [p for p in PROGRAMS if "administration" in p]
    here = program.replace("localhost:8500", f"127.0.0.1:{running.server.grpc_port}")

    exec(compile(here, PAGE.name, "exec"), {})  # noqa: S102 - our own page

    assert capsys.readouterr().out == "m [3]\n"


@pytest.mark.usefixtures("serve")  # for its models
def test_a_server_is_embedded(
    publish: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(tmp_path / "m", 1)
    (program,) = [p for p in PROGRAMS if "import ModelConfig" in p]
    left: list[str] = []

    def leave(server: Server, *_: object) -> None:
        left.extend(model.config.name for model in server.models())
        server.stop()

    monkeypatch.setattr(Server, "__exit__", leave)

    exec(compile(program, PAGE.name, "exec"), {"base_path": str(tmp_path / "m")})  # noqa: S102

    assert left == ["other"]
    ports = capsys.readouterr().out.split()
    assert len(ports) == 2
    assert all(int(port) > 0 for port in ports)


@pytest.mark.parametrize("name", servable.__all__)
def test_what_the_package_offers_is_there(name: str) -> None:
    assert getattr(servable, name).__name__ == name


def test_it_offers_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dance'"):
        _ = servable.dance
