"""Pictures of results; needs the extra ``bench`` (matplotlib)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from servable.bench.runner import ClosedLoop, Load, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTILES = ("p50", "p90", "p99")


def save(path: Path, title: str, points: Sequence[tuple[Load, Report]]) -> None:
    """
    Write a PNG: latency against throughput, or the percentiles of a single point.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if len(points) == 1:
        _draw_percentiles(axes, points[0][1])
    else:
        _draw_sweep(axes, points)
    axes.set_title(title)
    axes.set_ylabel("latency, ms")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.savefig(path, format="png", dpi=150)


def _draw_sweep(axes: "Axes", points: Sequence[tuple[Load, Report]]) -> None:
    rates = [report["requests_per_s"] for _, report in points]
    for percentile in _PERCENTILES:
        latencies = [report["latency_us"][percentile] / 1e3 for _, report in points]
        axes.plot(rates, latencies, marker="o", label=percentile)
    for load, report in points:
        label = (
            str(load.in_flight) if isinstance(load, ClosedLoop) else f"{load.rate:g}"
        )
        place = (report["requests_per_s"], report["latency_us"]["p50"] / 1e3)
        axes.annotate(label, place, (0, -14), textcoords="offset points", ha="center")
    closed = all(isinstance(load, ClosedLoop) for load, _ in points)
    axes.set_xlabel(
        "answers per second; the numbers are "
        + ("requests in flight" if closed else "requests per second asked for")
    )
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    axes.legend()


def _draw_percentiles(axes: "Axes", report: Report) -> None:
    # 1/(1 - p) spreads the tail out; the last step, all of them, would be infinite.
    inside = [(p, us) for p, us in report["percentiles"] if p < 100]  # noqa: PLR2004
    axes.plot([1 / (1 - p / 100) for p, _ in inside], [us / 1e3 for _, us in inside])
    axes.set_xscale("log")
    axes.set_xlabel("percentile")
    most = max((1 / (1 - p / 100) for p, _ in inside), default=10.0)
    ticks = [
        (scale, name)
        for scale, name in (
            (2, "50"),
            (10, "90"),
            (100, "99"),
            (1e3, "99.9"),
            (1e4, "99.99"),
            (1e5, "99.999"),
        )
        if scale <= most
    ]
    axes.set_xticks([scale for scale, _ in ticks], [name for _, name in ticks])
    axes.minorticks_off()
