"""Addresses as people write them."""

from pathlib import Path

import pytest

from servable.client.targets import Protocol, Target, Tls, parse_target, parse_targets
from servable.errors import InvalidArgument

GRPC, REST = Protocol.GRPC, Protocol.REST


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("host:8500", Target(GRPC, "host:8500")),
        ("host", Target(GRPC, "host:8500")),
        ("[::1]", Target(GRPC, "[::1]:8500")),
        ("[::1]:1", Target(GRPC, "[::1]:1")),
        ("grpc://host:1", Target(GRPC, "host:1")),
        ("grpcs://host", Target(GRPC, "host:8500", secure=True)),
        ("unix:/run/s", Target(GRPC, "unix:/run/s")),
        ("dns:///host:1", Target(GRPC, "dns:///host:1")),
        ("http://host", Target(REST, "http://host:8501")),
        ("http://host:1/", Target(REST, "http://host:1")),
        ("https://host/base", Target(REST, "https://host:443/base", secure=True)),
    ],
)
def test_address_means(address: str, target: Target) -> None:
    assert parse_target(address) == target


@pytest.mark.parametrize(
    "address", ["", "host:", "host:x", "host:99999", ":1", "ftp://host", "::1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_target(address)


def test_several_addresses_in_one_text_or_in_a_list() -> None:
    assert parse_targets("a:1, b:2", secure=False) == parse_targets(
        ["a:1", "b:2"], secure=False
    )


def test_one_client_speaks_one_protocol() -> None:
    with pytest.raises(InvalidArgument, match="speak gRPC and REST"):
        parse_targets("a:1,http://b:2", secure=False)


def test_tls_over_plain_http_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="write https"):
        parse_targets("http://a", secure=True)


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="together"):
        Tls(certificate=tmp_path / "client.pem")
