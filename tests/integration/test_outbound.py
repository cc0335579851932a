"""
A server connects to nobody: every connect() of its process and of those that it
starts is written down while it does all that it does for local models.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("servable._engine")

from servable.client import Client

# Writes the family of every address that is connected to, or asked a name server for.
WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void tell(const char *what, int family) {
    int log = open(getenv("WATCH_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(log, "%s %d\n", what, family);
    close(log);
}

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    tell("connect", to ? to->sa_family : -1);
    return real(fd, to, length);
}

int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **result) {
    int (*real)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    tell("getaddrinfo", 0);
    return real(node, service, hints, result);
}
"""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which the processes that are started say what they do."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "watch.c", tmp_path / "watch.so"
    source.write_text(WATCH)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", str(source), "-o", str(library), "-ldl"],
        check=True,
    )
    log = tmp_path / "connections"
    log.touch()
    monkeypatch.setenv("WATCH_LOG", str(log))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return log


def test_the_watch_sees(watched: Path) -> None:
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run(["python3", "-c", code], check=True)

    assert watched.read_text().splitlines() == ["connect 2"]


def test_a_server_connects_to_nobody(
    start: Callable[..., Any],
    watched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    base_path = write_version(tmp_path / "m" / "1").parent
    words = tmp_path / "words" / "1"
    words.mkdir(parents=True)
    (words / "table.csv").write_text("word,id\nthe,1\n")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "tensorflow" } '
        f'config {{ name: "words" base_path: "{words.parent}" '
        'model_platform: "hashmap" } }'
    )
    server = start(
        *(f"--model_config_file={config}", "--wait_for_models=true"),
        *("--rest_api_extensions", "--enable_session_service"),
        f"--grpc_socket_path={tmp_path / 's'}",
    )
    # The client that follows is not what is watched.
    monkeypatch.delenv("LD_PRELOAD")
    write_version(tmp_path / "m" / "2")
    wait_until(lambda: server.is_serving("m", 2), "second version")
    for address in (server.grpc, server.rest):
        with Client(address) as client:
            client.predict("m", [1.0])
            client.metadata("m")
            client.status("words")
    with Client(server.grpc) as client:
        client.administration.models()
        client.administration.remove_model("words")
    httpx.get(f"{server.rest}/metrics")

    assert watched.read_text() == ""
