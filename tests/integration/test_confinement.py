"""A server needs no right to write, and no user that is more than nobody."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("servable._engine")

NOBODY = 65534
# All file systems become read-only for it, and it becomes nobody, who may look into
# directories because the tests may be installed in somebody's home.
CONFINE = """
set -eu
awk '{print $2}' /proc/mounts | grep -v -E '^/(proc|sys|dev)(/|$)' | sort -r |
while read -r mounted; do mount -o remount,bind,ro "$mounted" 2>/dev/null || true; done
if touch "$0" 2>/dev/null; then echo "still writable"; exit 3; fi
may=-all,+dac_read_search
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
  --inh-caps=$may --ambient-caps=$may --bounding-set=$may "$@"
"""


def can_confine() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount", "awk"))
    if not tools or os.geteuid() != 0:
        return False
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, timeout=10)
    return tried.returncode == 0


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Yield a directory that everybody may read."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def test_a_server_is_content_to_be_nobody_and_to_write_nothing(
    start: Callable[..., Any], public_path: Path, write_version: Callable[..., Path]
) -> None:
    if not can_confine():
        pytest.skip("needs root, unshare and setpriv")
    version = write_version(public_path / "m" / "1")
    confined = start(
        *(f"--model_base_path={version.parent}", "--model_name=m"),
        "--wait_for_models=true",
        within=[
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", CONFINE, str(version / "saved_model.pb")),
        ],
    )
    status = Path(f"/proc/{confined.process.pid}/status").read_text()
    answer = httpx.post(
        f"{confined.rest}/v1/models/m:predict", content='{"instances": [2.0]}'
    )

    assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
    assert "NoNewPrivs:\t1" in status
    assert answer.json() == {"predictions": [3.0]}
    assert httpx.get(f"{confined.rest}/readyz").status_code == 200
    confined.process.terminate()
    assert confined.process.wait(30) == 0
