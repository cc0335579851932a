"""`servable predict`, `status` and `metadata`: arguments in, text out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from servable.cli.metadata import metadata
from servable.cli.predict import predict
from servable.cli.status import status

NOBODY = ["--address", "localhost:1", "--timeout", "2"]


def run(command: Any, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin)


def test_python_is_a_program_that_makes_the_call() -> None:
    result = run(predict, "m", "-i", "x=[1, 2]", "--version", "3", "--python")

    compile(result.output, "m.py", "exec")
    assert "Client('localhost:8500')" in result.output
    assert "client.predict('m', {'x': [1, 2]}, version=3)" in result.output


@pytest.mark.parametrize(
    ("value", "source", "module"),
    [
        ("@a.npy", "numpy.load('a.npy')", "import numpy"),
        ("@a.json", "json.loads(pathlib.Path('a.json').read_bytes())", "import json"),
        ("-", "json.load(sys.stdin)", "import sys"),
    ],
)
def test_python_reads_what_the_command_reads(
    value: str, source: str, module: str
) -> None:
    output = run(predict, "m", "-i", f"x={value}", "--python").output

    assert f"{{'x': {source}}}" in output
    assert module in output.splitlines()


def curl_body(*arguments: str, stdin: str = "") -> Any:
    import shlex  # noqa: PLC0415 - only here

    output = run(predict, "m", *arguments, "--curl", stdin=stdin).output
    program, option, body, url = shlex.split(output)
    assert (program, option) == ("curl", "-d")
    assert url.endswith(":predict")
    return json.loads(body)


def test_curl_has_the_url_of_the_version() -> None:
    output = run(predict, "a b", "-i", "1", "--version", "2", "--curl").output

    assert "http://localhost:8501/v1/models/a%20b/versions/2:predict" in output


def test_curl_goes_where_the_rest_address_says() -> None:
    output = run(predict, "m", "-i", "1", "--curl", "--address", "http://host:9").output

    assert "http://host:9/v1/models/m:predict" in output


def test_values_come_from_json_text_files_and_stdin(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.5]], np.float32))
    (tmp_path / "b.json").write_text("[true]")

    body = curl_body(
        *("-i", f"a=@{tmp_path}/a.npy"),
        *("-i", f"b=@{tmp_path}/b.json"),
        *("-i", "c=-"),
        *("-i", "d=some text"),
        *("-i", 'e={"k": "a=b"}'),
        *("--signature", "s"),
        stdin="[3]",
    )

    assert body == {
        "signature_name": "s",
        "inputs": {
            "a": [[1.5]],
            "b": [True],
            "c": [3],
            "d": "some text",
            "e": {"k": "a=b"},
        },
    }


def test_a_value_without_a_name_stands_alone() -> None:
    assert curl_body("-i", '["a=b"]') == {"inputs": ["a=b"]}
    assert run(predict, "m", "-i", "1", "-i", "x=2", "--curl").exit_code == 2


@pytest.mark.parametrize(
    ("value", "stdin", "message"),
    [
        ("x=@nowhere.npy", "", "cannot read nowhere.npy"),
        ("x=-", "no json", "stdin: this is no JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(value: str, stdin: str, message: str) -> None:
    result = run(predict, "m", "-i", value, "--curl", stdin=stdin)

    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(predict, ["m", "-i", "x=1"]), (status, []), (status, ["m"]), (metadata, ["m"])],
    ids=["predict", "status of the server", "status", "metadata"],
)
def test_a_server_that_is_not_there_is_one_line_and_exit_status_1(
    command: Any, arguments: list[str]
) -> None:
    result = run(command, *arguments, *NOBODY)

    assert result.exit_code == 1
    assert "localhost:1" in result.output
    assert result.output.count("\n") == 1
