"""
docs/openapi.json describes the REST API: it has every route, its examples are answered
as it says, and whatever else is sent is answered with what it lists.

SERVABLE_FUZZ_REQUESTS says how many requests are made up.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("servable._engine")

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text())
REQUESTS = int(os.environ.get("SERVABLE_FUZZ_REQUESTS", "150"))
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
PLACES = {"{model}": "m", "{version}": "1", "{label}": "stable"}


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> Any:
    base_path = write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent
    config = base_path.parent / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "tensorflow" version_labels { key: "stable" value: 1 } } }'
    )
    return start(
        *(f"--model_config_file={config}", "--wait_for_models=true"),
        *("--rest_api_extensions", "--max_body_bytes=1048576"),
        "--allow_version_labels_for_unavailable_models",
    )


@pytest.fixture(scope="module")
def rest(server: Any) -> Any:
    with httpx.Client(base_url=server.rest, timeout=60) as client:
        yield client


def target(path: str) -> str:
    for place, value in PLACES.items():
        path = path.replace(place, value)
    return path


def schema(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = DOCUMENT
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def assert_as_described(operation: dict[str, Any], response: httpx.Response) -> None:
    status = str(response.status_code)
    assert status in operation["responses"], (status, response.text)
    described = schema(operation["responses"][status])
    media = response.headers["Content-Type"].partition(";")[0]
    assert media in described["content"], (status, media, response.text)
    if media == "application/json":
        body = response.json()
        expected = schema(described["content"][media]["schema"])
        assert set(expected.get("required", ())) <= body.keys(), body


def test_every_action_is_described() -> None:
    source = (ROOT / "engine/src/frontend/rest/url.rs").read_text()
    (actions,) = re.findall(r"pub enum Action \{(.*?)\n\}", source, re.DOTALL)
    names = set(re.findall(r"^    (\w+),", actions, re.MULTILINE))

    assert names <= OPERATIONS.keys()
    assert len(names) == 8


def test_the_document_is_one() -> None:
    validator = pytest.importorskip("openapi_spec_validator")

    validator.validate(DOCUMENT)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n != "Reload"])
def test_examples_are_answered_as_described(rest: httpx.Client, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    media = operation.get("requestBody", {}).get("content", {})
    example = media.get("application/json", {}).get("example")
    response = rest.request(
        method, target(path), content=json.dumps(example) if example else None
    )

    assert response.status_code == 200, response.text
    assert_as_described(operation, response)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "-Infinity", "x", "regress", "classify"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["x", "b64", "a", ""]), inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(
        [
            *("signature_name", "instances", "inputs", "examples", "context"),
            *("tasks", "output_filter", "config", "metricNames", "unknown"),
        ]
    ),
    VALUES,
    max_size=4,
)
BODIES = (
    DOCUMENTS.map(lambda document: json.dumps(document).encode())
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=64)
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Content-Type", "Accept", "Content-Encoding", "Accept-Encoding"),
            *("Origin", "Authorization", "servable-signature-name"),
            *("servable-output-filter", "servable-priority"),
        ]
    ),
    st.sampled_from(
        [
            *("application/json", "application/x-protobuf", "application/x-npy"),
            *("gzip", "http://a", "Bearer x", "low", "regress", "*/*;q=0.1", "y,y"),
        ]
    ),
    max_size=3,
)
SEGMENTS = st.text("ab1/:.%~-_é ", max_size=6).map(
    lambda text: "".join(c if c.isascii() and c not in "% " else "%41" for c in text)
)
# A reload that is taken would leave nothing to ask.
ASKED = sorted(OPERATIONS.keys() - {"Reload"})


@settings(
    max_examples=REQUESTS,
    deadline=None,
    derandomize="SERVABLE_FUZZ_REQUESTS" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(ASKED),
    model=st.just("m") | SEGMENTS,
    version=st.just("1") | st.integers(0, 1 << 66).map(str),
    body=BODIES,
    headers=HEADERS,
)
def test_whatever_is_sent_is_answered_as_described(
    rest: httpx.Client,
    name: str,
    model: str,
    version: str,
    body: bytes,
    headers: dict[str, str],
) -> None:
    method, path, operation = OPERATIONS[name]
    path = path.replace("{model}", model).replace("{version}", version)
    response = rest.request(
        method,
        path.replace("{label}", "stable"),
        content=body if method == "POST" else None,
        headers=headers,
    )

    assert response.status_code < 500 or response.status_code in {501, 503, 504}, (
        response.text
    )
    if model == "m" and method == "POST" and int(version) < 1 << 63:
        assert_as_described(operation, response)


@settings(
    max_examples=REQUESTS // 3,
    deadline=None,
    derandomize="SERVABLE_FUZZ_REQUESTS" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, headers=HEADERS)
def test_no_reload_that_is_made_up_ends_in_a_fault(
    rest: httpx.Client, body: bytes, headers: dict[str, str]
) -> None:
    response = rest.post("/v1/config:reload", content=body, headers=headers)

    assert response.status_code < 500 or response.status_code in {501, 503, 504}, (
        response.text
    )
