"""The engine may be imported first by a thread that ends."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

SCRIPT = """
import sys
import threading

def first_import() -> None:
    from servable import _engine

thread = threading.Thread(target=first_import)
thread.start()
thread.join()

from servable import ModelConfig, Server, ServerOptions

models = (ModelConfig("words", sys.argv[1], "hashmap"),)
with Server(ServerOptions(models=models, grpc_port=0)) as server:
    print(server.grpc_port)
"""


def test_a_server_starts_after_the_thread_that_imported_it_has_ended(
    tmp_path: Path,
) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (version / "table.csv").write_text("word,id\nthe,1\n")

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr[-1000:]
    assert int(done.stdout) > 0
