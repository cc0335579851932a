"""
Install a wheel without extras into fresh environments, and ask a server from there.

    python tools/try_wheel.py dist/servable-*.whl [PYTHON ...]

Each PYTHON (this one, if none is named) gets an environment of its own with the wheel
and what it depends on.  In it the server of the wheel serves a look-up table, which
needs no TensorFlow, and the client of the wheel asks it over gRPC and REST, from Python
and from the shell.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROGRAM = """
import asyncio, pathlib, subprocess, sys, tempfile
import numpy as np
from servable import ModelConfig, Server, ServerOptions
from servable.client import AsyncClient, Client
from servable.errors import NotFound

version = pathlib.Path(tempfile.mkdtemp(), "words", "1")
version.mkdir(parents=True)
(version / "table.csv").write_text("word,id\\nthe,1\\ncat,2\\n")
options = ServerOptions(
    models=(ModelConfig("words", str(version.parent), "hashmap"),),
    grpc_host="127.0.0.1", grpc_port=0, rest_port=0,
)

async def ask(address):
    async with AsyncClient(address) as client:
        return (await client.predict("words", ["cat", "dog"]))["id"].tolist()

with Server(options) as server:
    grpc, rest = f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"
    for address in (grpc, rest):
        with Client(address) as client:
            client.wait_until_ready("words")
            assert client.predict("words", ["cat"])["id"].tolist() == [2]
            assert client.metadata("words").version == 1
            try:
                client.predict("nothing", ["cat"])
            except NotFound as error:
                assert "nothing" in str(error)
            else:
                raise AssertionError("an unknown model is no error")
        assert asyncio.run(ask(address)) == [2, 0]
        command = [sys.executable, "-m", "servable", "predict", "words",
                   "--input", 'keys=["cat"]', "--json", "--address", address]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert shown.stdout == '{"found": [true], "id": [2]}\\n', shown.stdout
for name in ("tensorflow", "ml_dtypes", "sklearn"):
    assert name not in sys.modules
python = sys.version.split()[0]
print(f"asked over gRPC and REST: Python {python}, NumPy {np.__version__}")
"""


def try_wheel(wheel: str, python: str) -> None:
    """Install *wheel* for *python*, and run the program there."""
    with tempfile.TemporaryDirectory() as directory:
        run([python, "-m", "venv", directory])
        fresh = Path(directory, "bin", "python")
        run([fresh, "-m", "pip", "install", "--quiet", wheel])
        run([fresh, "-c", PROGRAM])


def run(command: Sequence[str | Path]) -> None:
    """Run a command outside this repository, whose packages it is not to find."""
    subprocess.run(command, check=True, cwd=tempfile.gettempdir())  # noqa: S603 - ours


def main() -> None:
    """Try the wheel with each Python that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[1])
    parser.add_argument("wheel", type=lambda name: str(Path(name).resolve(strict=True)))
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    arguments = parser.parse_args()
    for python in arguments.pythons:
        try_wheel(arguments.wheel, python)


if __name__ == "__main__":
    main()
