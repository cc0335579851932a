"""
Draw the panels of deploy/grafana/servable.json without Grafana.

Starts a server with the model in a directory, asks it for a while, reads its metrics
page every second, works out what the dashboard's expressions mean, and draws that.
Needs the extras `tensorflow` and `bench`; what it draws is real, and no screenshot.

    python tools/draw_dashboard.py models/half_plus_two docs/images/dashboard.png
"""

import argparse
import itertools
import json
import math
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from matplotlib.figure import Figure

from servable.client import Client
from servable.config.logging_config import LoggingConfig
from servable.config.model_server_config import ModelConfig
from servable.config.server_options import ServerOptions
from servable.errors import ServingError
from servable.server import Server

DASHBOARD: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "servable.json"
WINDOW: Final = 5  # scrapes that a rate is taken over

Labels = tuple[tuple[str, str], ...]
Scrape = Mapping[str, Mapping[Labels, float]]
Line = dict[Labels, list[float]]

_EXPRESSION: Final = re.compile(
    r"(?:histogram_quantile\((?P<quantile>[\d.]+), )?"
    r"(?:sum(?: by \((?P<by>[^)]*)\) | ?)\()?"
    r"(?P<rate>rate\()?"
    r"(?P<metric>\w+)(?:\{(?P<filters>[^}]*)\})?(?:\[[^]]*\])?\)*"
)
_FILTER: Final = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
_SAMPLE: Final = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def main() -> None:
    """Ask, read, and draw."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path, help="base path of a SavedModel of x")
    arguments.add_argument("picture", type=Path)
    arguments.add_argument("--seconds", type=int, default=60)
    given = arguments.parse_args()
    scrapes = record(given.model.resolve(), given.seconds)
    draw(json.loads(DASHBOARD.read_text()), scrapes, given.picture)


def record(model: Path, seconds: int) -> list[Scrape]:
    """Return what the metrics page of a server under load showed, second by second."""
    with tempfile.TemporaryDirectory() as folder:
        logging = LoggingConfig(f"{folder}/requests", 0.1)
        models = (ModelConfig("half_plus_two", str(model), logging=logging),)
        options = ServerOptions(models=models, grpc_port=0, rest_port=0)
        stop = threading.Event()
        with Server(options) as server:
            asking = [
                threading.Thread(target=ask, args=(server, stop, pause))
                for pause in (0.001, 0.002, 0.005)
            ]
            for thread in asking:
                thread.start()
            page = f"http://127.0.0.1:{server.rest_port}/metrics"
            scrapes = []
            for _ in range(seconds):
                time.sleep(1)
                scrapes.append(read(httpx.get(page).text))
            stop.set()
            for thread in asking:
                thread.join()
        return scrapes


def ask(server: Server, stop: threading.Event, pause: float) -> None:
    """Ask over both protocols, more and less often, and sometimes what is wrong."""
    rest = httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}")
    with Client(f"127.0.0.1:{server.grpc_port}", attempts=1) as client, rest:
        for number in itertools.count():
            if stop.wait(pause * (1.5 + math.sin(number / 400))):
                return
            client.predict("half_plus_two", {"x": [1.0, 2.0]})
            if number % 3 == 0:
                body = {"inputs": {"x": [1.0]}}
                rest.post("/v1/models/half_plus_two:predict", json=body)
            if number % 50 == 0:
                try:
                    client.predict("missing", {"x": [1.0]})
                except ServingError:
                    continue


def read(page: str) -> Scrape:
    """Return the samples of a metrics page by name and labels."""
    found: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in page.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match and not line.startswith("#"):
            labels = tuple(sorted(_LABEL.findall(match[2] or "")))
            found[match[1]][labels] = float(match[3])
    return found


def evaluate(expression: str, scrapes: Sequence[Scrape]) -> Line:
    """Return the lines that an expression of the dashboard means, by their labels."""
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        raise ValueError(f"cannot work out {expression}")
    by = [label.strip() for label in (match["by"] or "").split(",") if label.strip()]
    metric, is_sum = match["metric"], "sum" in expression
    lines: dict[Labels, list[float]] = defaultdict(lambda: [0.0] * len(scrapes))
    for labels in {one for scrape in scrapes for one in scrape.get(metric, {})}:
        values = dict(labels)
        if not all(
            chosen(values, one) for one in _FILTER.findall(match["filters"] or "")
        ):
            continue
        kept = tuple((name, values[name]) for name in by) if is_sum else labels
        numbers = [scrape.get(metric, {}).get(labels, 0.0) for scrape in scrapes]
        for at in range(len(scrapes)):
            before = max(at - WINDOW, 0)
            change = (numbers[at] - numbers[before]) / max(at - before, 1)
            lines[kept][at] += change if match["rate"] else numbers[at]
    if match["quantile"]:
        return dict(quantiles(float(match["quantile"]), lines))
    return dict(lines)


def chosen(values: Mapping[str, str], condition: tuple[str, str, str]) -> bool:
    """Return whether labels meet a condition; a variable means everything."""
    name, operator, text = condition
    if text.startswith("$"):
        return True
    return (values.get(name, "") == text) == (operator != "!=")


def quantiles(quantile: float, buckets: Line) -> Iterator[tuple[Labels, list[float]]]:
    """Yield a line of quantiles for each group of buckets, as Prometheus does."""
    groups: dict[Labels, dict[float, list[float]]] = defaultdict(dict)
    for labels, counts in buckets.items():
        rest = tuple(label for label in labels if label[0] != "le")
        groups[rest][float(dict(labels)["le"])] = counts
    for labels, group in groups.items():
        limits = sorted(group)
        columns = zip(*(group[limit] for limit in limits), strict=True)
        yield labels, [within(quantile, limits, counts) for counts in columns]


def within(quantile: float, limits: Sequence[float], counts: Sequence[float]) -> float:
    """Return the quantile of cumulated counts; no number where nothing was counted."""
    wanted = counts[-1] * quantile
    if not wanted:
        return math.nan
    at = next(i for i, count in enumerate(counts) if count >= wanted)
    below, before = (limits[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    if math.isinf(limits[at]):
        return below
    part = (wanted - before) / (counts[at] - before)
    return below + (limits[at] - below) * part


def draw(dashboard: Mapping[str, Any], scrapes: Sequence[Scrape], path: Path) -> None:
    """Draw every panel that has numbers, in the dashboard's order."""
    drawn = []
    for panel in dashboard["panels"]:
        lines = [
            (legend(target["legendFormat"], labels), values)
            for target in panel["targets"]
            for labels, values in sorted(evaluate(target["expr"], scrapes).items())
        ]
        if lines:
            drawn.append((panel["title"], panel["fieldConfig"]["defaults"], lines))
    rows = math.ceil(len(drawn) / 2)
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    for axes, (title, field, lines) in zip(
        figure.subplots(rows, 2).flat, drawn, strict=False
    ):
        for name, values in lines:
            axes.plot(range(len(values)), values, label=name, linewidth=1)
        axes.set_title(f"{title} ({field['unit']})", fontsize=9, loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.25)
        axes.legend(fontsize=6)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("seconds", fontsize=7)
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def legend(template: str, labels: Labels) -> str:
    """Return the name of a line, as the dashboard has it."""
    values = dict(labels)
    return re.sub(r"\{\{(\w+)\}\}", lambda name: values.get(name[1], ""), template)


if __name__ == "__main__":
    main()
