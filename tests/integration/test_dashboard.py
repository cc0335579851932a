"""deploy/grafana/servable.json asks for what the metrics page has."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

parser = pytest.importorskip("prometheus_client.parser")
pytest.importorskip("servable._engine")

from servable.client import Client  # noqa: E402

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "servable.json").read_text())
EXPRESSIONS = [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
]
NAMES = {
    name
    for expression in EXPRESSIONS
    for name in re.findall(r"\b(?:servable|process)_\w+", expression)
}
LABELS = re.compile(r"by \(([^)]*)\)|(\w+)(?:=~|!=|=)\"")


@pytest.fixture(scope="module")
def families(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, set[str]]:
    """The names of samples on the page of a server at work, with their labels."""
    base = tmp_path_factory.mktemp("models") / "m"
    write_version(base / "1")
    config = base.parent / "config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base}" '
        'model_platform: "tensorflow" logging_config { log_collector_config { '
        f'type: "tfrecord" filename_prefix: "{base.parent}/log" }} '
        "sampling_config { sampling_rate: 1 } } } }"
    )
    server = start(f"--model_config_file={config}", "--wait_for_models=true")
    page = ""
    with Client(server.grpc, attempts=1) as client:
        # What is logged is counted when it is written.
        while "servable_request_log_records_total{" not in page:
            client.predict("m", [1.0])
            page = httpx.get(f"{server.rest}/metrics").text
    return {
        sample.name: set(sample.labels)
        for family in parser.text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_metric_of_the_dashboard_is_on_the_page(
    name: str, families: dict[str, set[str]]
) -> None:
    if name.startswith("servable_gpu_") and not Path("/dev/nvidia0").exists():
        pytest.skip("there is no GPU")

    assert name in families


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_of_the_dashboard_are_those_of_the_metric(
    expression: str, families: dict[str, set[str]]
) -> None:
    (name,) = re.findall(r"\b(?:servable|process)_\w+", expression)
    if name not in families:
        pytest.skip("there is no GPU")
    asked = {
        label.strip()
        for groups in LABELS.findall(expression)
        for label in ",".join(groups).split(",")
        if label.strip()
    }

    assert asked <= families[name]


def test_panels_have_a_place_and_a_number_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)
