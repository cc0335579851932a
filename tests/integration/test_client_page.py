"""What docs/client.md shows is what happens; and so does the notebook beside it."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("servable._engine")

from servable.apis import saved_model_pb2
from servable.cli.commands import servable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
NOTEBOOK = json.loads((ROOT / "examples" / "client.ipynb").read_text())

PROGRAMS = re.findall(
    r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
)
COMMANDS = re.findall(
    r"^\$ servable (.*)\n((?:[^$`\n].*\n|\n(?!```))*)", PAGE, re.MULTILINE
)


@pytest.fixture(scope="module")
def address(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> str:
    base_path = tmp_path_factory.mktemp("models") / "half_plus_two"
    model = write_version(base_path / "1") / "saved_model.pb"
    # The README's has one signature, and the page must not ask for others.
    message = saved_model_pb2.SavedModel.FromString(model.read_bytes())
    signatures = message.meta_graphs[0].signature_def
    for name in set(signatures) - {"serving_default"}:
        del signatures[name]
    model.write_bytes(message.SerializeToString())
    server = start(
        "--model_name=half_plus_two",
        f"--model_base_path={base_path}",
        "--wait_for_models=true",
    )
    grpc: str = server.grpc
    return grpc


def test_every_program_shows_what_it_prints() -> None:
    assert len(PROGRAMS) == PAGE.count("```python\n") > 5
    assert len(COMMANDS) == PAGE.count("\n$ servable ") > 3


@pytest.mark.parametrize(("program", "output"), PROGRAMS)
def test_a_program_prints(
    address: str, program: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = program.replace("localhost:8500", address)

    exec(compile(here, "client.md", "exec"), {"__name__": "client"})  # noqa: S102 - our own page

    assert capsys.readouterr().out == output


@pytest.mark.parametrize(("command", "output"), COMMANDS)
def test_a_command_prints(address: str, command: str, output: str) -> None:
    env = {"SERVABLE_ADDRESS": address}

    result = CliRunner().invoke(servable, shlex.split(command), env=env)

    assert plain(result.output.replace(address, "localhost:8500")) == plain(output)


def plain(text: str) -> list[str]:
    """Return lines as a reader sees them."""
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_notebook_shows_what_its_cells_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its cells are run in one namespace, and in their order, as in a kernel."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert NOTEBOOK["nbformat"] == 4
    for cell in cells:
        exec(compile("".join(cell["source"]), "client.ipynb", "exec"), namespace)  # noqa: S102
        shown = "".join(
            text for output in cell["outputs"] for text in output.get("text", ())
        )
        assert capsys.readouterr().out == shown
