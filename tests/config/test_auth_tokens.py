"""Which files of tokens are legal, and what is kept of them."""

import hashlib
import logging
from pathlib import Path

import pytest

from servable.config import auth_tokens
from servable.config.auth_tokens import AuthToken
from servable.errors import InvalidArgument, NotFound

HASH = "ab" * 32


def read(tmp_path: Path, text: str) -> tuple[AuthToken, ...]:
    path = tmp_path / "tokens"
    path.write_text(text)
    return auth_tokens.read(str(path))


def test_a_token_is_kept_as_its_hash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokens = read(
            tmp_path,
            f"""
            tokens {{ name: "a" sha256: "{HASH.upper()}" scopes: [STATUS, PREDICT] }}
            tokens {{ name: "b" token: "sixteen-and-more" scopes: STATUS models: "m" }}
            """,
        )

    secret = hashlib.sha256(b"sixteen-and-more").digest()
    assert tokens == (
        AuthToken("a", bytes.fromhex(HASH), ("PREDICT", "STATUS")),
        AuthToken("b", secret, ("STATUS",), ("m",)),
    )
    assert HASH not in repr(tokens)
    assert "tokens in plain text: b" in caplog.text
    assert "sixteen" not in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("# nothing", "has no tokens", id="no token"),
        pytest.param(
            f'tokens {{ sha256: "{HASH}" scopes: ADMIN }}', "has no name", id="no name"
        ),
        pytest.param(
            'tokens { name: "a" scopes: ADMIN }',
            "token a: sha256 or token must be set",
            id="no secret",
        ),
        pytest.param(
            'tokens { name: "a" sha256: "abc" scopes: ADMIN }',
            "token a: sha256 must be 64 hexadecimal digits",
            id="half a hash",
        ),
        pytest.param(
            'tokens { name: "a" token: "fifteen-letters" scopes: ADMIN }',
            "token a: token must be at least 16",
            id="a token that can be guessed",
        ),
        pytest.param(
            'tokens { name: "a" token: "sixteen and more" scopes: ADMIN }',
            "token a: token must be at least 16 letters, digits",
            id="a token that no header can carry",
        ),
        pytest.param(
            f'tokens {{ name: "a" sha256: "{HASH}" }}',
            "token a: scopes must be some of PREDICT, STATUS, METRICS and ADMIN",
            id="no scope",
        ),
        pytest.param(
            f'tokens {{ name: "a" sha256: "{HASH}" scopes: SCOPE_UNSPECIFIED }}',
            "token a: scopes must be some of",
            id="a scope that is none",
        ),
        pytest.param(
            f'tokens {{ name: "a" sha256: "{HASH}" scopes: ADMIN models: "m" }}',
            "token a: models can only be set for the scopes PREDICT and STATUS",
            id="an administrator of one model",
        ),
        pytest.param(
            f'tokens {{ name: "a" sha256: "{HASH}" scopes: ADMIN }}'
            'tokens { name: "a" token: "sixteen-and-more" scopes: ADMIN }',
            "two tokens have the same name",
            id="a name twice",
        ),
        pytest.param(
            f'tokens {{ name: "a" sha256: "{HASH}" scopes: ADMIN }}'
            f'tokens {{ name: "b" sha256: "{HASH}" scopes: STATUS }}',
            "two tokens have the same secret",
            id="a secret twice",
        ),
        pytest.param("tokens {", "Invalid protobuf file", id="half a message"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            'tokens { name: "a" token: sixteen-and-more }',
            "1:27: Something else is expected here.",
            id="no quotation marks",
        ),
        pytest.param(
            'tokens { name: "a" token "sixteen-and-more" }',
            "1:26: Something else is expected here.",
            id="no colon",
        ),
        pytest.param(
            "sixteen_and_more",
            ": Something else is expected here.",
            id="the token alone",
        ),
        pytest.param(
            'tokens { name: "a" scopes: sixteen_and_more }',
            ": Something else is expected here.",
            id="for the name of a scope",
        ),
        pytest.param(
            'tokens { name: "a" token: "sixteen-and-more\\xff" }',
            "1:1: Something else is expected here.",
            id="with bytes that are no text",
        ),
        pytest.param(
            'tokens { name: "a" token: "sixteen-and-more\n }',
            ": String literals cannot cross line boundaries.",
            id="a string that does not end",
        ),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(
    tmp_path: Path, text: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidArgument, match="Invalid protobuf file") as error:
        read(tmp_path, text)

    assert caplog.messages[0].endswith(problem)
    assert "sixteen" not in caplog.text + error.value.message


def test_a_file_that_is_not_there_is_told_of() -> None:
    with pytest.raises(NotFound, match="/nowhere/tokens"):
        auth_tokens.read("/nowhere/tokens")
