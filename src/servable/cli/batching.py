"""
`servable batching`: what a running server has found out about its batches, and why it
makes them as it does.

Everything comes from the server's page of metrics.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import click

from servable.config.batching_options import FIXED

_SAMPLE: Final = re.compile(r"(servable_batching_\w+)\{([^}]*)\} (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_REASONS: Final = {
    "queue_empty": "nothing else waited",
    "size_limit": "more rows would have been too many",
    "trial": "to see what another size costs",
}


@dataclass(slots=True)
class Queue:
    """What the page says of one queue."""

    version: str
    signature: str
    policy: str = ""
    values: dict[str, float] = field(default_factory=dict)
    row_s: dict[int, float] = field(default_factory=dict)
    reasons: dict[str, float] = field(default_factory=dict)


@click.group()
def batching() -> None:
    """See how a server puts requests into batches."""


@batching.command()
@click.argument("model")
@click.option(
    "--url",
    default="http://localhost:8501/metrics",
    show_default=True,
    help="Where the server's own page of metrics is.",
)
@click.option("--timeout", default=10.0, show_default=True, help="Seconds.")
def explain(*, model: str, url: str, timeout: float) -> None:
    """
    Say how batches of MODEL are made, and why.

    It tells of every signature whose requests were put into batches.  The exit status
    is 1 if there is none of MODEL.
    """
    import httpx  # noqa: PLC0415 - slow to import

    try:
        answer = httpx.get(url, timeout=timeout)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(f"{url}: {error}") from None
    found = queues(answer.text, model)
    if not found:
        click.echo(
            f"{url} shows no batches of {model}: its requests are not batched, or none "
            "has come yet that a batch can hold.",
            err=True,
        )
        sys.exit(1)
    click.echo("\n\n".join("\n".join(told(model, queue)) for queue in found))


def queues(page: str, model: str) -> list[Queue]:
    """Return the queues of *model* that *page* tells of, in its order."""
    found: dict[tuple[str, str], Queue] = {}
    for name, labels_text, value in _SAMPLE.findall(page):
        labels = {key: _unescaped(text) for key, text in _LABEL.findall(labels_text)}
        if labels.get("model") != model:
            continue
        key = labels["version"], labels["signature"]
        queue = found.setdefault(key, Queue(*key))
        match name.removeprefix("servable_batching_"):
            case "info":
                queue.policy = labels["policy"]
            case "row_seconds":
                queue.row_s[int(labels["rows"])] = float(value)
            case "batches_total":
                queue.reasons[labels["reason"]] = float(value)
            case other:
                queue.values[other] = float(value)
    return list(found.values())


def told(model: str, queue: Queue) -> Iterable[str]:
    """Yield what is known of a queue, line by line."""
    value = _Values(queue.values)
    signature = queue.signature or "several signatures at once"
    yield f"{model}, version {queue.version}, {signature}"
    by = _decider(queue.policy, is_installed=bool(value.of("policy_decides")))
    yield (
        f"  decided by {by}: up to {value.of('decided_rows'):g} rows in a batch, "
        f"{value.of('decided_in_flight'):g} at a time, waiting "
        f"{value.of('decided_wait_seconds') * 1e3:g} ms for more rows"
    )
    if queue.policy == FIXED:
        yield (
            f"  at most {value.of('max_waiting_batches'):g} batches may wait; requests "
            "beyond are refused"
        )
    yield (
        f"  now: {value.of('waiting_rows'):g} rows wait, {value.of('in_flight'):g} "
        f"batches run, {value.of('arriving_rows_per_second'):.1f} rows/s come, "
        f"{value.of('refused_total'):g} requests were refused"
    )
    if "expected_wait_seconds" in queue.values:
        wait_ms = value.of("expected_wait_seconds") * 1e3
        yield f"  a request that comes now is expected to take {wait_ms:.2f} ms"
    batches = sum(queue.reasons.values())
    if batches:
        yield (
            f"  {batches:g} batches so far, of {value.of('rows_total') / batches:.1f} "
            "rows on average:"
        )
        for reason, count in sorted(queue.reasons.items(), key=lambda item: -item[1]):
            if count:
                why = _REASONS.get(reason, reason)
                yield f"    {count / batches:6.1%} had no more rows: {why}"
    if queue.row_s:
        yield "  what a row costs, by the rows in its batch:"
        cheapest = min(queue.row_s.values())
        for size, row_s in sorted(queue.row_s.items()):
            mark = "  the least" if row_s == cheapest else ""
            yield f"    {size:6} {row_s * 1e6:10.1f} µs{mark}"


def _decider(policy: str, *, is_installed: bool) -> str:
    if is_installed:
        return f"the policy {policy}"
    # The adaptive policy decides until an installed one has.
    return "the batching parameters" if policy == FIXED else "the adaptive policy"


@dataclass(frozen=True, slots=True)
class _Values:
    values: Mapping[str, float]

    def of(self, name: str) -> float:
        return self.values.get(name, 0.0)


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
