"""
The settings of gRPC's C core, as --grpc_channel_arguments names them.

The server here is another one: settings with an equivalent count, and the engine's
`channel_arguments.rs` says how; the others are named, so that they can be told of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KNOWN: Final = frozenset(
    {
        "grpc.http2.max_frame_size",
        "grpc.keepalive_time_ms",
        "grpc.keepalive_timeout_ms",
        "grpc.max_concurrent_streams",
        "grpc.max_connection_age_grace_ms",
        "grpc.max_connection_age_ms",
        "grpc.max_metadata_size",
        "grpc.max_receive_message_length",
        "grpc.max_send_message_length",
    }
)


@dataclass(frozen=True, slots=True)
class ChannelArguments:
    """
    Settings that count, and the names of those that do not.

    Of several of the same name the last counts.
    """

    known: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def parse(text: str) -> ChannelArguments:
    """Read comma-separated settings; one that makes no sense is an unknown one."""
    known: dict[str, int] = {}
    unknown: list[str] = []
    for argument in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (part.strip() for part in argument.partition("="))
        if name in KNOWN and value.removeprefix("-").isdecimal():
            known[name] = max(min(int(value), (1 << 63) - 1), -(1 << 63))
        else:
            unknown.append(name)
    return ChannelArguments(known, tuple(unknown))
