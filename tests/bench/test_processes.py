"""Finding the process behind an address."""

import os
import socket
import sys
from pathlib import Path

import pytest

from servable.bench.processes import listening_pid_or_none

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_finds_who_listens_on_a_port(family: socket.AddressFamily) -> None:
    if family == socket.AF_INET6 and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.socket(family) as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        assert listening_pid_or_none(f"localhost:{port}") == os.getpid()
    assert listening_pid_or_none(f"localhost:{port}") is None


def test_finds_who_listens_on_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        assert listening_pid_or_none(f"unix:{tmp_path}/s") is None
        listener.listen()

        assert listening_pid_or_none(f"unix:{tmp_path}/s") == os.getpid()
        assert listening_pid_or_none(f"unix://{tmp_path}/s") == os.getpid()


def test_an_address_without_a_port_has_no_process() -> None:
    assert listening_pid_or_none("nonsense") is None


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
