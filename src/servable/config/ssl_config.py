"""TLS of a port: the SSLConfig message."""

from dataclasses import dataclass, field

from servable.apis import ssl_config_pb2
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class SslConfig:
    """
    Keys and certificates as PEM texts.

    custom_ca holds the roots that clients' certificates are checked against;
    client_verify demands such a certificate.
    """

    server_key: str = field(default="", repr=False)
    server_cert: str = ""
    custom_ca: str = ""
    client_verify: bool = False


def read(path: str) -> SslConfig:
    """
    Read a text file with an SSLConfig message.

    Raises:
        ServingError: The file cannot be read, or is no such message.
    """
    message = read_text_proto(path, ssl_config_pb2.SSLConfig, has_secrets=True)
    return SslConfig(
        server_key=message.server_key,
        server_cert=message.server_cert,
        custom_ca=message.custom_ca,
        client_verify=message.client_verify,
    )


def read_complete(path: str) -> SslConfig:
    """
    Read a file as read() does, which has to have a key and a certificate.

    Raises:
        ServingError: The file cannot be read, or something is missing in it.
    """
    config = read(path)
    if not (config.server_key and config.server_cert):
        raise InvalidArgument(f"{path} has no key or certificate")
    return config
