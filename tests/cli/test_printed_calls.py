"""What --python and --curl print does what the command does."""

import base64
import json
import pathlib
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import pytest

from servable.cli.client_options import Connection
from servable.cli.printed_calls import _source, curl_call, python_call
from servable.cli.values import WHOLE, read_inputs
from servable.client import Signature, TensorSpec, make_example
from servable.client.dtypes import parse

SHOWN = "t"
MODULES = {"json": json, "numpy": np, "pathlib": pathlib, "PIL": PIL}


def signature(dtype: str, *shape: int | None, **more: str) -> Signature:
    inputs = {"x": TensorSpec("x:0", parse(dtype), shape)}
    inputs |= {
        name: TensorSpec(name, parse(kind), (None,)) for name, kind in more.items()
    }
    return Signature("serving_default", "", inputs, {})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", [1.0, 2.0])
    np.savez("one.npz", v=[1.0, 2.0])
    np.savez("two.npz", x=[1.0], y=[2.0])
    Path("a.json").write_text("[1, 2]")
    Path("matrix.csv").write_text("p,q\n1,2\n3,4\n")
    Path("columns.csv").write_text("x,s\n1.5,a\n2.5,b\n")
    PIL.Image.new("RGB", (4, 3), (255, 0, 10)).save("a.png")
    PIL.Image.new("L", (2, 2), 7).save("gray.png")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "text", "takes"),
    [
        ("x", "@a.npy", signature("float32", None)),
        ("x", "@two.npz", signature("float32", None)),
        ("x", "@one.npz", signature("float32", None)),
        ("", "@two.npz", signature("float32", None, y="float32")),
        ("x", "@a.json", signature("float32", None)),
        ("", "@matrix.csv", signature("float32", None, 2)),
        ("x", "@matrix.csv", signature("float32", None, 2)),
        ("", "@columns.csv", signature("float32", None, s="string")),
        ("x", "@a.png", signature("string", None)),
        ("", "@a.png", signature("string")),
        ("x", "@a.png", signature("float32", None, 3, 4, 3)),
        ("x", "@a.png", signature("float32", None, 2, 2, 3)),
        ("x", "@a.png", signature("float32", None, 2, 2, 1)),
        ("", "@a.png", signature("uint8", 2, None, 3)),
        ("x", "@a.png", signature("uint8", None, None, 1)),
        ("", "@gray.png", signature("float32", None, None, None, 3)),
    ],
)
def test_a_program_reads_what_the_command_reads(
    name: str, text: str, takes: Signature
) -> None:
    source = _source(name, text, lambda: takes)

    read = read_inputs({name: text}, lambda: takes)
    expected = read[name] if name else read
    assert comparable(eval(source, dict(MODULES))) == comparable(expected)  # noqa: S307 - what is tested


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: comparable(v) for name, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(
    ("connection", "client", "curl"),
    [
        pytest.param(
            Connection("h:8500"), "Client('h:8500')", "http://h:8501/", id="gRPC"
        ),
        pytest.param(
            Connection("grpcs://h:9,i:9"),
            "Client('grpcs://h:9,i:9')",
            "https://h:8501/",
        ),
        pytest.param(
            Connection("https://h:9", 2.5, ca="c a", certificate="b", key="k"),
            "Client('https://h:9', "
            "tls=Tls(ca='c a', certificate='b', key='k'), timeout=2.5)",
            "curl --cacert 'c a' --cert b --key k --max-time 2.5 -d",
            id="files and a timeout",
        ),
        pytest.param(
            Connection("h:8500", tls=True),
            "Client('h:8500', tls=True)",
            "https://h:8501/",
            id="TLS",
        ),
        pytest.param(
            Connection("h:8500", token=SHOWN),
            "Client('h:8500', token='t')",
            "curl -H 'Authorization: Bearer t' -d",
            id="a token",
        ),
        pytest.param(
            Connection("h:8500", token=SHOWN, is_token_told=True),
            "Client('h:8500', token=os.environ['SERVABLE_TOKEN'])",
            'curl -H "Authorization: Bearer $SERVABLE_TOKEN" -d',
            id="a token of the environment",
        ),
    ],
)
def test_a_call_goes_where_the_command_asks(
    connection: Connection, client: str, curl: str
) -> None:
    program = python_call(connection, "m", {"x": "1"}, {}, lambda: None)

    compile(program, "m.py", "exec")
    assert f"with {client} as client:" in program
    assert ("import os" in program) == ("os." in client)
    assert ("import Client, Tls\n" in program) == ("Tls(" in client)
    assert curl in curl_call(connection, "m", {"x": 1}, {})


@pytest.mark.parametrize("given", [WHOLE, "inputs"], ids=["alone", "by name"])
def test_curl_sends_rows_of_features_as_the_command_does(given: str) -> None:
    rows = read_inputs({given: '[{"x": 1.0}, {"x": 2.0}]'})

    sent = shlex.split(curl_call(Connection("localhost:8500"), "m", rows, {}))

    inputs = json.loads(sent[sent.index("-d") + 1])["inputs"]
    examples = [
        base64.b64decode(row["b64"]) if isinstance(row, dict) else row.encode()
        for row in (inputs if given == WHOLE else inputs["inputs"])
    ]
    assert examples == [make_example({"x": x}).SerializeToString() for x in (1.0, 2.0)]


@pytest.mark.parametrize("address", ["unix:/run/s", "unix:///run/s:1"])
def test_curl_needs_a_place_for_rest(address: str) -> None:
    with pytest.raises(click.UsageError, match="is for gRPC only"):
        curl_call(Connection(address), "m", {"x": 1}, {})
