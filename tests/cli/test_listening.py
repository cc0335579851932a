"""Sockets that somebody else has bound, and how they are told of."""

import socket
from pathlib import Path

import pytest

from servable.cli import listening
from servable.config.server_options import ServerOptions
from servable.errors import InvalidArgument


def said(names: str, pid: int = 7, count: int | None = None) -> dict[str, str]:
    of = len(names.split(":")) if count is None else count
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(of), "LISTEN_FDNAMES": names}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, {}, id="nothing is handed over"),
        pytest.param(said("grpc:rest"), {"grpc": 3, "rest": 4}, id="in their order"),
        pytest.param(said("grpc_socket", pid=6), {"grpc_socket": 3}, id="for a parent"),
        pytest.param(said("grpc", pid=5), {}, id="for another process"),
        pytest.param(said("", count=0), {}, id="no sockets at all"),
    ],
)
def test_which_descriptors_are_ours(
    environment: dict[str, str], expected: dict[str, int]
) -> None:
    assert listening.inherited(environment, pid=7, parent_pid=6) == expected


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(said("unknown"), id="what systemd says where nothing is said"),
        pytest.param(said("grpc", count=2), id="fewer names than sockets"),
        pytest.param(said("grpc:grpc"), id="the same name twice"),
    ],
)
def test_other_names_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="FileDescriptorName="):
        listening.inherited(environment, pid=7, parent_pid=6)


def test_what_is_handed_over_is_what_is_inherited() -> None:
    told = listening.handed_over(["grpc", "rest"], pid=6)

    assert listening.inherited(told, 7, 6) == {"grpc": 3, "rest": 4}
    assert listening.without_variables(told | {"A": "b"}) == {"A": "b"}


def test_nobody_is_let_in_before_the_server_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bound = listening.bind(0, path, 0)["grpc_socket"]
    with bound, socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(path)
        before = listening.is_listening(bound)
        bound.listen()
        after = listening.is_listening(bound)

    assert (before, after) == (False, True)


def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listening.bind(0, path, 0)["grpc_socket"].close()
    with listening.bind(0, path, 0)["grpc_socket"] as bound:
        assert bound.getsockname() == path


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    assert listening.bind(0, str(tmp_path / "s"), 0) == {}
    assert (tmp_path / "s").read_text() == "precious"


def test_both_ports_are_bound_over_ipv6_where_there_is_one() -> None:
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, other)]
    bound = listening.bind(ports[0], "", ports[1])
    families = {name: tcp.family for name, tcp in bound.items()}
    for tcp in bound.values():
        tcp.close()

    assert set(families) == {"grpc", "rest"}
    assert len(set(families.values())) == 1


def test_a_port_that_is_taken_is_left_to_the_server() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - where the server listens
        taken.listen()

        assert listening.bind(taken.getsockname()[1], "", 0) == {}


def test_options_follow_what_was_handed_over(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        options = listening.with_listeners(
            ServerOptions(grpc_port=1, rest_port=None),
            {"grpc": tcp.fileno(), "grpc_socket": unix.fileno()},
        )
        port = tcp.getsockname()[1]

        assert options.grpc_port == port
        assert options.rest_port is None
        assert options.grpc_listener == tcp.fileno()
        assert options.grpc_socket_path == path


@pytest.mark.parametrize("name", ["grpc", "rest", "grpc_socket"])
def test_what_is_no_such_socket_is_refused(name: str, tmp_path: Path) -> None:
    other = socket.AF_INET if name == "grpc_socket" else socket.AF_UNIX
    with (
        socket.socket(other) as wrong,
        pytest.raises(InvalidArgument, match=r"is no (TCP|Unix) socket"),
    ):
        listening.with_listeners(ServerOptions(), {name: wrong.fileno()})
    with (
        (tmp_path / "f").open("w") as file,
        pytest.raises(InvalidArgument, match="is no socket"),
    ):
        listening.with_listeners(ServerOptions(), {name: file.fileno()})
