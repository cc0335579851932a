"""
Which batching parameters serve a latency target best: choosing, writing, drawing.

Nothing here measures; what was measured comes in as reports of load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servable.bench.runner import ClosedLoop, Report


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to serve: with batches of up to so many rows, or with none for 0."""

    max_batch_size: int

    def __str__(self) -> str:
        """Return it as tables and pictures show it."""
        if not self.max_batch_size:
            return "no batching"
        return f"up to {self.max_batch_size} rows"

    def to_text_proto(self, num_batch_threads: int) -> str:
        """Return it as a BatchingParameters file."""
        return (
            f"max_batch_size {{ value: {self.max_batch_size} }}\n"
            "batch_timeout_micros { value: 0 }\n"
            f"max_enqueued_batches {{ value: {_ENQUEUED} }}\n"
            f"num_batch_threads {{ value: {num_batch_threads} }}\n"
        )


_ENQUEUED = 1000


@dataclass(frozen=True, slots=True)
class Point:
    """What a setting did under one load."""

    setting: Setting
    load: ClosedLoop
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int

    @classmethod
    def of(cls, setting: Setting, load: ClosedLoop, report: Report) -> "Point":
        """Return the point that *report* tells of."""
        return cls(
            setting,
            load,
            report["requests_per_s"],
            report["latency_us"]["p50"] / 1e3,
            report["latency_us"]["p99"] / 1e3,
            sum(error["count"] for error in report["errors"].values()),
        )


def best(points: Sequence[Point], target_p99_ms: float) -> Point | None:
    """
    Return the point with the most answers whose p99 is within the target, or None.

    Of settings that answer about as many, within 2 %, the one with the smaller
    batches is preferred; a load with errors counts for nothing.
    """
    good = [
        point for point in points if not point.errors and point.p99_ms <= target_p99_ms
    ]
    if not good:
        return None
    enough = max(point.requests_per_s for point in good) * _ABOUT_AS_MANY
    rivals = [point for point in good if point.requests_per_s >= enough]
    return min(
        rivals, key=lambda point: (point.setting.max_batch_size, -point.requests_per_s)
    )


_ABOUT_AS_MANY = 0.98


def parameters_file(point: Point, target_p99_ms: float, num_batch_threads: int) -> str:
    """Return the batching file for the setting of *point*, and how it was found."""
    return (
        f"# Found by servable tune for a p99 of {target_p99_ms:g} ms: "
        f"{point.requests_per_s:.0f} requests/s\n"
        f"# at {point.load.in_flight} in flight, p50 {point.p50_ms:.2f} ms, "
        f"p99 {point.p99_ms:.2f} ms.\n" + point.setting.to_text_proto(num_batch_threads)
    )


def draw(path: Path, title: str, points: Sequence[Point], target_p99_ms: float) -> None:
    """
    Write a PNG: p99 against throughput, a line for each setting, and the target.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for setting in dict.fromkeys(point.setting for point in points):
        own = [point for point in points if point.setting == setting]
        axes.plot(
            [point.requests_per_s for point in own],
            [point.p99_ms for point in own],
            marker="o",
            markersize=4,
            label=str(setting),
        )
    axes.axhline(target_p99_ms, linestyle="--", color="grey", label="target")
    axes.set_title(title)
    axes.set_xlabel("answers per second")
    axes.set_ylabel("p99, ms")
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside right center")
    figure.savefig(path, format="png", dpi=150)
