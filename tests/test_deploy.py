"""The files in deploy name flags that there are, and give no more than is needed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from servable.cli.flags import FLAGS

DEPLOY = Path(__file__).parents[1] / "deploy"
UNIT = DEPLOY / "systemd" / "servable.service"
CONTAINER = DEPLOY / "container" / "Containerfile"
KUBERNETES = DEPLOY / "kubernetes" / "servable.yaml"
FILES = [UNIT, CONTAINER, KUBERNETES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flags_are_those_of_the_server(path: Path) -> None:
    text = "\n".join(
        line for line in path.read_text().splitlines() if not line.startswith("#")
    )
    named = set(re.findall(r"--([a-z]+(?:_[a-z]+)+)\b", text))

    assert named
    assert named <= {flag.name for flag in FLAGS}


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # What is not installed here cannot be found.
    unit.write_text(UNIT.read_text().replace("/opt/servable/bin/servable", "/bin/sh"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Unknown" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_image_is_for_nobody() -> None:
    lines = CONTAINER.read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    last_stage = max(at for at, line in enumerate(lines) if line.startswith("FROM "))

    assert users == ["65532:65532"]
    assert any(line.startswith("USER ") for line in lines[last_stage:])
    # Each base is named with its version.
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert all(re.search(r":\d", base) for base in bases)


@pytest.mark.parametrize(
    "line",
    [
        "runAsNonRoot: true",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        'capabilities: {drop: ["ALL"]}',
        "seccompProfile: {type: RuntimeDefault}",
        "automountServiceAccountToken: false",
        "egress: []",
        "httpGet: {path: /readyz, port: rest}",
        "httpGet: {path: /healthz, port: rest}",
    ],
)
def test_a_pod_is_restricted(line: str) -> None:
    lines = [text.strip() for text in KUBERNETES.read_text().splitlines()]

    assert line in lines


def test_the_manifests_are_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all(KUBERNETES.read_text()))

    kinds = [document["kind"] for document in documents]
    assert kinds == ["Deployment", "Service", "NetworkPolicy"]
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    # A model that does not load is no reason to start a server again.
    asked = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {v["name"] for v in documents[0]["spec"]["template"]["spec"]["volumes"]}
    assert mounted == volumes
