"""A server whose models are in a bucket, while the bucket comes and goes."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servable.client import Client
from servable.export import uploading
from servable.export.uploading import upload

parser = pytest.importorskip("prometheus_client.parser")

pytestmark = [
    pytest.mark.tensorflow,
    *(
        pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=reason)
        for module, reason in {
            "servable._engine": "the engine is not built",
            "tensorflow": "needs TensorFlow",
            "s3fs": "servable[s3] is not installed",
            "moto": "moto[server] is not installed",
        }.items()
    ),
]

_MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]))
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Bucket:
    """An S3 server as a process; what it has is gone when it stops."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        process = self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _MOTO, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        lines = (line for line in process.stdout if line.strip().isdigit())
        self.port = int(next(lines))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def put(self, version: Path) -> None:
        """Upload a version to s3://models/half/NAME, in a process of its own."""
        upload = (
            "import s3fs, sys; s3 = s3fs.S3FileSystem(); "
            "s3.mkdir('models') if not s3.exists('models') else None; "
            "s3.put(sys.argv[1] + '/', f'models/half/{sys.argv[2]}/', recursive=True)"
        )
        arguments = [str(version), version.name]
        subprocess.run([sys.executable, "-c", upload, *arguments], check=True)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    bucket.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield bucket
    bucket.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def test_a_model_is_served_from_a_bucket_and_when_the_bucket_is_gone(
    bucket: Bucket,
    start: Any,
    write_version: Any,
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    flags = [
        "--model_name=half",
        "--model_base_path=s3://models/half",
        f"--model_cache_dir={tmp_path / 'cache'}",
    ]
    server = start(*flags)
    wait_until(lambda: "Could not find base path s3://" in server.log(), "log line")
    bucket.put(write_version(tmp_path / "half" / "1"))
    wait_until(lambda: server.is_serving("half", 1), "version 1")

    bucket.put(write_version(tmp_path / "half" / "2", 3.0))
    wait_until(lambda: server.is_serving("half", 2), "version 2")

    bucket.stop()
    wait_until(lambda: "Could not look at base path s3://" in server.log(), "log line")
    with Client(server.grpc) as client:
        assert client.predict("half", [2.0])["y"].tolist() == [4.0]

    bucket.start()
    bucket.put(write_version(tmp_path / "half" / "3", 4.0))
    wait_until(lambda: server.is_serving("half", 3), "version 3")
    assert "Fetched version 3 of servable half: 1 files" in server.log()
    page = httpx.get(f"{server.rest}/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["servable_fetches_total", "s3", "fetched"] == 3
    assert samples["servable_fetches_total", "s3", "unreachable"] > 0
    assert samples["servable_fetch_bytes_total", "s3", "store"] > 0
    assert samples["servable_fetch_seconds_total", "s3"] > 0
    assert (
        samples["servable_model_cache_bytes",]
        >= samples["servable_fetch_bytes_total", "s3", "store"]
    )


def test_parts_that_nobody_completes_are_dropped_after_a_day(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that was killed in a large file has left some; S3 bills for them."""
    assert bucket.port
    s3 = pytest.importorskip("s3fs").S3FileSystem(skip_instance_cache=True)
    s3.mkdir("parts")
    for key in ("m/7/large", "other/large"):
        s3.call_s3("create_multipart_upload", Bucket="parts", Key=key)
    (tmp_path / "saved_model.pb").write_bytes(b"graph")

    def begun() -> list[str]:
        found = s3.call_s3("list_multipart_uploads", Bucket="parts")
        return [upload["Key"] for upload in found.get("Uploads", [])]

    with monkeypatch.context() as patched:  # this S3 says 2010 for all of them
        patched.setattr(uploading, "ABANDONED_AFTER_S", 1e10)
        upload(tmp_path, "s3://parts/m", filesystem=s3)
    assert begun() == ["m/7/large", "other/large"]

    upload(tmp_path, "s3://parts/m", filesystem=s3)
    assert begun() == ["other/large"]
