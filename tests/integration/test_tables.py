"""Look-up tables and what is made of them, on a real server."""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.client import Client
from servable.errors import NotFound, ServingError, Unavailable
from servable.platforms.hashmap import shard_of

WORDS = ["zero", "one", "two", "three", "four", "five"]

LOOK_UP = """
[inputs]
words = { dtype = "string", shape = [-1] }

[outputs]
number = { dtype = "int64", shape = [-1], from = "numbers.number" }
german = { dtype = "string", shape = [-1], from = "names.text" }

[[parts]]
name = "numbers"
shards = ["shard_0", "shard_1", "shard_2"]
route_by = "keys"
inputs = { keys = "words" }

[[parts]]
name = "names"
model = "names"
inputs = { keys = "numbers.number" }
"""

TWICE = """
[inputs]
x = { dtype = "string", shape = [-1] }

[outputs]
first = { dtype = "int64", shape = [-1], from = "first.version" }
second = { dtype = "int64", shape = [-1], from = "second.version" }

[[parts]]
name = "first"
model = "changing"
inputs = { keys = "x" }

[[parts]]
name = "second"
model = "changing"
inputs = { keys = "x" }
"""

BROKEN = """
[inputs]
x = { dtype = "string", shape = [-1] }

[outputs]
y = { dtype = "float32", shape = [-1], from = "part.number" }

[[parts]]
name = "part"
model = "MODEL"
inputs = { keys = "x" }
"""

ITSELF = """
[inputs]
x = { dtype = "string", shape = [-1] }

[outputs]
y = { dtype = "string", shape = [-1], from = "part.y" }

[[parts]]
name = "part"
model = "itself"
inputs = { x = "x" }
"""


def write(base: Path, name: str, version: int, **files: str) -> None:
    """Write a version directory, and rename it into place."""
    made = base / f"{name}.tmp"
    made.mkdir()
    for file, text in files.items():
        (made / file.replace("_", ".")).write_text(text)
    (base / name).mkdir(exist_ok=True)
    made.rename(base / name / str(version))


def config_of(base: Path, models: dict[str, str]) -> str:
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{base / name}" '
        f'model_platform: "{platform}" }} '
        for name, platform in models.items()
    )
    return f"model_config_list {{ {listed} }}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def server(
    base: Path, start: Callable[..., Any], wait_until: Callable[..., None]
) -> Any:
    german = ["null", "eins", "zwei", "drei", "vier", "fünf"]
    vectors = {word: [n, n / 2] for n, word in enumerate(WORDS)}
    write(base, "vectors", 1, table_json=json.dumps(vectors))
    write(base, "strict", 1, table_csv="k,v\na,1\n", table_toml='missing = "error"')
    names = "".join(f'{{"id": {n}, "text": "{t}"}}\n' for n, t in enumerate(german))
    write(base, "names", 1, table_jsonl=names)
    for shard in range(3):
        rows = [
            f"{word},{number}\n"
            for number, word in enumerate(WORDS)
            if shard_of(word.encode(), 3) == shard
        ]
        write(base, f"shard_{shard}", 1, table_csv="word,number\n" + "".join(rows))
    write(base, "look_up", 1, composite_toml=LOOK_UP)
    write(base, "changing", 1, table_csv="k,version\na,1\n")
    write(base, "twice", 1, composite_toml=TWICE)
    for name, model in (("unserved", "nowhere"), ("mistyped", "shard_0")):
        write(base, name, 1, composite_toml=BROKEN.replace("MODEL", model))
    write(base, "itself", 1, composite_toml=ITSELF)
    tables = ("vectors", "strict", "names", "changing", "shard_0", "shard_1", "shard_2")
    composites = ("look_up", "twice", "unserved", "mistyped", "itself")
    config = base / "models.config"
    config.write_text(
        config_of(
            base,
            dict.fromkeys(tables, "hashmap") | dict.fromkeys(composites, "composite"),
        )
    )
    server = start(f"--model_config_file={config}")
    wait_until(
        lambda: httpx.get(f"{server.rest}/readyz").status_code == httpx.codes.OK,
        "models",
    )
    return server


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[Client]:
    with Client(getattr(server, request.param), attempts=1) as made:
        yield made


def test_keys_get_their_rows_and_missing_ones_are_told(client: Client) -> None:
    answer = client.predict("vectors", ["two", "?", "one", "two"])

    assert answer["value"].tolist() == [[2, 1], [0, 0], [1, 0.5], [2, 1]]
    assert answer["found"].tolist() == [True, False, True, True]


def test_signatures_have_the_types_of_the_columns(client: Client) -> None:
    signatures = client.metadata("vectors").signatures

    assert [str(signature) for signature in signatures.values()] == [
        "serving_default(keys: string[?]) -> found: bool[?], value: float64[?, 2]"
    ]


def test_a_strict_table_answers_with_the_key_that_is_missing(client: Client) -> None:
    assert client.predict("strict", ["a"])["v"].tolist() == [1]

    with pytest.raises(NotFound) as caught:
        client.predict("strict", ["a", "b"])

    assert caught.value.message == 'Key "b" is not in the table'


def test_a_new_table_takes_the_place_of_the_old(
    base: Path, client: Client, wait_until: Callable[..., None]
) -> None:
    version = max(int(path.name) for path in (base / "strict").iterdir()) + 1
    write(base, "strict", version, table_csv=f"k,v\na,{version}\n")

    wait_until(
        lambda: bool(client.predict("strict", ["a"])["v"].tolist() == [version]),
        "new version",
    )


def test_shards_answer_as_one_table_and_feed_the_next_part(client: Client) -> None:
    assert len({shard_of(word.encode(), 3) for word in WORDS}) > 1

    answer = client.predict("look_up", ["five", "one", "nine", "two", "five"])

    assert answer["number"].tolist() == [5, 1, 0, 2, 5]
    german = [text.decode() for text in answer["german"].tolist()]
    assert german == ["fünf", "eins", "null", "zwei", "fünf"]


def test_no_request_sees_two_versions_of_a_part(
    base: Path, client: Client, wait_until: Callable[..., None]
) -> None:
    version = max(int(path.name) for path in (base / "changing").iterdir()) + 1
    write(base, "changing", version, table_csv=f"k,version\na,{version}\n")

    def is_new() -> bool:
        answer = client.predict("twice", ["a"])
        assert answer["first"] == answer["second"]
        return bool(answer["first"] == [version])

    wait_until(is_new, "new version of the part")


def test_no_keys_get_no_rows_of_shards(server: Any) -> None:
    with Client(server.grpc) as client:
        answer = client.predict("look_up", np.empty(0, object))

    assert {name: array.shape for name, array in answer.items()} == {
        "number": (0,),
        "german": (0,),
    }


@pytest.mark.parametrize(
    ("model", "text"),
    [
        pytest.param(
            "unserved",
            "Part part: Servable not found for request: Latest(nowhere)",
            id="a part that is not served",
        ),
        pytest.param(
            "mistyped",
            "Output y is int64[1] from part.number; the composite declares float[?]",
            id="a part of another type",
        ),
        pytest.param(
            "itself",
            "Part part: " * 8 + "composites contain each other more than 8 deep; one "
            "of them may contain itself",
            id="a composite that contains itself",
        ),
    ],
)
def test_what_fails_names_its_part(client: Client, model: str, text: str) -> None:
    with pytest.raises(ServingError) as caught:
        client.predict(model, ["zero"])

    assert caught.value.message == text


def test_a_part_that_is_not_served_may_be_tried_again(client: Client) -> None:
    with pytest.raises(Unavailable):
        client.predict("unserved", ["zero"])


def test_anybody_can_tell_the_shard_of_a_key() -> None:
    assert shard_of(b"word", 7) == zlib.crc32(b"word") % 7
    assert shard_of("Wörter", 7) == zlib.crc32("Wörter".encode()) % 7
    assert shard_of(-2, 7) == zlib.crc32(np.int64(-2).tobytes()) % 7
