"""
Bearer tokens and what they are for: the AuthTokens message.

Decides which files are legal.  Of a token only its hash is kept; requests are judged
in the engine.
"""

import hashlib
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from servable.apis import auth_tokens_pb2
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument

_Message = auth_tokens_pb2.AuthToken
_SCOPES: Final = {number: name for name, number in _Message.Scope.items() if number}
_ADMIN: Final = "ADMIN"
_METRICS: Final = "METRICS"
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
# What a header can carry (RFC 6750), and too long to be guessed.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuthToken:
    """
    One token, by its hash.

    Attributes:
        name: what messages and logs call it.
        scopes: names of Scope, sorted.
        models: the only ones that it may ask; empty for any.
    """

    name: str
    sha256: bytes = field(repr=False)
    scopes: tuple[str, ...]
    models: tuple[str, ...] = ()

    def row(self) -> tuple[str, bytes, tuple[str, ...], tuple[str, ...]]:
        """Return the token as the engine takes it."""
        return self.name, self.sha256, self.scopes, self.models


def read(path: str) -> tuple[AuthToken, ...]:
    """
    Read a text file with an AuthTokens message.

    Raises:
        ServingError: The file cannot be read, is no such message, or a token in it
            makes no sense.
    """
    message = read_text_proto(path, auth_tokens_pb2.AuthTokens, has_secrets=True)
    return from_proto(message, path)


def from_proto(message: auth_tokens_pb2.AuthTokens, path: str) -> tuple[AuthToken, ...]:
    """
    Return the tokens of *message*, which came from *path*.

    Raises:
        InvalidArgument: There is none, or one of them makes no sense.
    """
    if not message.tokens:
        raise InvalidArgument(f"{path} has no tokens: nobody could ask anything")
    tokens = tuple(_token(token, path) for token in message.tokens)
    for what, values in (
        ("name", [token.name for token in tokens]),
        ("secret", [token.sha256.hex() for token in tokens]),
    ):
        _, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise InvalidArgument(f"{path}: two tokens have the same {what}")
    plain = [t.name for t in message.tokens if t.WhichOneof("secret") == "token"]
    if plain:
        _logger.warning(
            "%s has tokens in plain text: %s; write sha256 in their place",
            path,
            ", ".join(plain),
        )
    return tokens


def _token(message: auth_tokens_pb2.AuthToken, path: str) -> AuthToken:
    if not message.name:
        raise InvalidArgument(f"{path}: a token has no name")
    where = f"{path}: token {message.name}"
    names = {_SCOPES.get(number) for number in message.scopes}
    scopes = tuple(sorted(name for name in names if name))
    if not scopes or None in names:
        raise InvalidArgument(
            f"{where}: scopes must be some of PREDICT, STATUS, METRICS and ADMIN"
        )
    if message.models and {_ADMIN, _METRICS} & set(scopes):
        raise InvalidArgument(
            f"{where}: models can only be set for the scopes PREDICT and STATUS"
        )
    return AuthToken(
        message.name, _sha256(message, where), scopes, tuple(message.models)
    )


def _sha256(message: auth_tokens_pb2.AuthToken, where: str) -> bytes:
    match message.WhichOneof("secret"):
        case "sha256":
            if not _SHA256.fullmatch(message.sha256):
                raise InvalidArgument(f"{where}: sha256 must be 64 hexadecimal digits")
            return bytes.fromhex(message.sha256)
        case "token":
            if not _TOKEN.fullmatch(message.token):
                raise InvalidArgument(
                    f"{where}: token must be at least 16 letters, digits or -._~+/"
                )
            return hashlib.sha256(message.token.encode()).digest()
        case _:
            raise InvalidArgument(f"{where}: sha256 or token must be set")
