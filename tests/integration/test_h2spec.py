"""h2spec, which asks a server for what HTTP/2 wants, over both ports."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

pytestmark = pytest.mark.skipif(
    shutil.which("h2spec") is None, reason="there is no h2spec on the PATH"
)

PREFACE: Final = ("http2/3.5", "Sends invalid connection preface")
# What fails, and need not be otherwise.
EXPECTED: Final[dict[str, dict[tuple[str, str], str]]] = {
    "grpc": {
        PREFACE: "the connection ends at once, by a reset, as there is more to read",
        (
            "generic/2",
            "Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
        ): "an error of gRPC's is answered without a body, and one is waited for",
        (
            "generic/2",
            "Sends a PRIORITY frame on half-closed (remote) stream",
        ): "as before",
        (
            "http2/4.2",
            "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
        ): "frames may be larger here than what is sent",
    },
    "rest": {PREFACE: "what does not begin as HTTP/2 is answered as HTTP/1"},
}


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_what_http_2_wants_is_kept(
    api: str,
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_version(tmp_path / "m" / "1")
    server = start(str(tmp_path / "m"), "--wait_for_models")
    port, path = {
        "grpc": (server.grpc_port, "/tensorflow.serving.PredictionService/Predict"),
        "rest": (server.rest_port, "/v1/models/m"),
    }[api]
    report = tmp_path / "report.xml"
    command = ["h2spec", "--strict", "-h", "127.0.0.1", "-p", str(port), "-P", path]
    subprocess.run([*command, "-j", str(report)], check=False, capture_output=True)
    cases = ET.parse(report).iter("testcase")  # noqa: S314 - h2spec is no peer
    failed = {
        (case.get("package"), case.get("classname"))
        for case in cases
        if any(what.tag != "skipped" for what in case)
    }

    assert failed == set(EXPECTED[api])
