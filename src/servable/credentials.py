"""
Certificates and tokens of a running server: read anew, and in force when they change.

What is wrong with a file changes nothing: what was in force before stays so.
"""

import logging
from collections.abc import Callable, Iterator

from servable.config.auth_tokens import AuthToken
from servable.config.server_options import ServerOptions
from servable.config.ssl_config import SslConfig
from servable.engine import Engine
from servable.errors import from_exception

_logger = logging.getLogger(__name__)


class Credentials:
    """
    What the files that *options* name say of TLS and tokens.

    Args:
        options: which name the files.
        tls: what they said of the certificates, which *engine* was made with.
        engine: is told of the tokens at once, and of what changes.

    Raises:
        ServingError: The file of tokens is wrong.
    """

    def __init__(
        self, options: ServerOptions, tls: tuple[SslConfig, ...], engine: Engine
    ) -> None:
        self._options = options
        self._tls = tls
        self._engine = engine
        self._tokens: tuple[AuthToken, ...] = ()
        self._ask_for(options.read_tokens())

    def polls(self) -> Iterator[tuple[str, float | None, Callable[[], str]]]:
        """
        Yield what is to be called again and again: a name, how often, and the call.

        Each puts in force what has changed, and returns what went wrong.
        """
        options = self._options
        if options.ssl_config_file or options.rest_api_ssl_config_file:
            yield "ssl-config-files", options.ssl_config_poll_wait_s, self._poll_tls
        if self._tokens:
            yield "auth-tokens-file", options.auth_tokens_poll_wait_s, self._poll_tokens

    def _poll_tls(self) -> str:
        try:
            tls = self._options.read_tls()
            for port, old, new in zip(("grpc", "rest"), self._tls, tls, strict=True):
                if old != new:
                    self._engine.replace_credentials(
                        port,
                        new.server_key,
                        new.server_cert,
                        new.custom_ca,
                        new.client_verify,
                    )
                    _logger.info("Using other SSL credentials for %s", port)
            self._tls = tls
        except Exception as error:  # noqa: BLE001 - the old ones stay in force
            return f"SSL credentials stay as they are: {from_exception(error)}"
        return ""

    def _poll_tokens(self) -> str:
        try:
            tokens = self._options.read_tokens()
            if tokens != self._tokens:
                self._ask_for(tokens)
                names = ", ".join(token.name for token in tokens)
                _logger.info("Asking for other tokens: %s", names)
        except Exception as error:  # noqa: BLE001 - the old ones stay in force
            return f"Tokens stay as they are: {from_exception(error)}"
        return ""

    def _ask_for(self, tokens: tuple[AuthToken, ...]) -> None:
        if tokens:
            self._engine.set_auth_tokens([token.row() for token in tokens])
        self._tokens = tokens
