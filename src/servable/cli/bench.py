"""
``servable bench``: put load on a model; print what comes back, how fast, at what cost.

This file is options, progress and tables; requests, probing, pictures and the run
itself are in servable.bench.
"""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from servable.bench.runner import ClosedLoop, Load, OpenLoop, Report, Spec, load_to_dict
from servable.cli.measuring import check_that_plots_can_be_drawn, input_option
from servable.cli.tables import print_table, printable

_PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
_STEPS = 100  # of a progress bar
_PORTS = {"grpc": "127.0.0.1:8500", "rest": "127.0.0.1:8501"}


class _Numbers(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic since click 8.4
    """Positive numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} should be numbers with commas between", param, ctx)
        if min(numbers) <= 0:
            self.fail(f"{value!r} should be positive", param, ctx)
        return numbers


@click.command()
@click.argument("model", required=False)
@click.option("--address", help="host:port or unix:path  [default: 127.0.0.1:8500]")
@click.option("--rest", is_flag=True, help="REST instead of gRPC; default port 8501.")
@click.option("--signature", default="serving_default", show_default=True)
@click.option("--model-version", type=click.IntRange(min=0))
@click.option("--label", help="Version label.")
@input_option
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="First dimension of random inputs.",
)
@click.option(
    "--path",
    help="gRPC method or URL path, with --body instead of a model.",
)
@click.option(
    "--body",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the serialized message or JSON to send.",
)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE")
@click.option(
    "--in-flight",
    type=_Numbers(int),
    default="32",
    show_default=True,
    help="Requests in flight; several (1,2,4) make a sweep.",
)
@click.option(
    "--rate",
    type=_Numbers(float),
    help="Requests per second whatever the answers (open loop); several make a sweep.",
)
@click.option(
    "--arrival",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="How the requests of --rate are spaced.",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Most requests of --rate sent at a time.",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True))
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="Measure as many instead of 8 seconds.",
)
@click.option(
    "--warmup",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds before measuring.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds until a request counts as failed.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="gRPC connections; REST has one for each request in flight.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the generator.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Count answers that differ from the first one as errors.",
)
@click.option(
    "--pid",
    default="auto",
    show_default=True,
    help="Server process whose CPU time is read: a number, auto or none.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a picture (PNG); needs matplotlib.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything measured; - is standard output.",
)
@click.option("--seed", type=int, default=0, help="Of random inputs and arrivals.")
def bench(**options: Any) -> None:
    """
    Put load on MODEL and measure throughput, latency and the server's CPU time.

    Inputs are random unless given, in the shapes of the model's signature. With
    --in-flight the answers set the pace; with --rate a schedule does, and latency
    counts from when a request was due, so a stalled server cannot hide.

    Exits with 1 when a request failed.

    \b
    servable bench half_plus_two --input 'x=[1,2,5]'
    servable bench half_plus_two --in-flight 1,2,4,8,16,32,64 --plot sweep.png
    servable bench half_plus_two --rest --rate 2000 --seconds 30 --json out.json
    """  # noqa: D301 - the escape is click's
    command = _Command(**options)
    try:
        measured = command.run()
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if any(report["errors"] for _, report in measured):
        click.get_current_context().exit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command:
    """The options as click hands them over, and what is done with them."""

    model: str | None
    address: str | None
    rest: bool
    signature: str
    model_version: int | None
    label: str | None
    inputs: Sequence[str]
    batch: int
    path: str | None
    body: Path | None
    headers: Sequence[str]
    in_flight: Sequence[int]
    rate: Sequence[float] | None
    arrival: Literal["constant", "poisson"]
    max_in_flight: int
    seconds: float | None
    requests: int | None
    warmup: float
    timeout: float
    connections: int
    threads: int
    check: bool
    pid: str
    plot: Path | None
    json_file: Path | None
    seed: int

    def run(self) -> list[tuple[Load, Report]]:
        self._check_options()
        spec = self._spec()
        measured = _measure(spec, self._loads())
        to_stdout = self.json_file is not None and str(self.json_file) == "-"
        if self.json_file is not None:
            text = json.dumps(_document(spec, measured), indent=1)
            if to_stdout:
                click.echo(text)
            else:
                self.json_file.write_text(text + "\n")
        if not to_stdout:
            _print(spec, measured)
        if self.plot is not None:
            from servable.bench import plot  # noqa: PLC0415 - needs an extra

            plot.save(
                self.plot, f"{self.model or spec.path} at {spec.address}", measured
            )
        return measured

    def _check_options(self) -> None:
        if self.model is None and (self.path is None or self.body is None):
            raise click.UsageError("Give a MODEL, or --path and --body.")
        if self.model is not None and self.path is not None:
            raise click.UsageError("--path and MODEL exclude each other.")
        if self.body is not None and self.inputs:
            raise click.UsageError("--body and --input exclude each other.")
        if self.model_version is not None and self.label is not None:
            raise click.UsageError("--model-version and --label exclude each other.")
        if self.seconds is not None and self.requests is not None:
            raise click.UsageError("--seconds and --requests exclude each other.")
        check_that_plots_can_be_drawn(self.plot)

    def _loads(self) -> list[Load]:
        if self.rate is None:
            return [ClosedLoop(in_flight) for in_flight in self.in_flight]
        return [
            OpenLoop(rate, self.arrival, self.max_in_flight, self.seed)
            for rate in self.rate
        ]

    def _spec(self) -> Spec:
        """Ask the server what to send, and whether it answers that."""
        from servable.bench import probe, processes  # noqa: PLC0415 - slow to import

        protocol: Literal["grpc", "rest"] = "rest" if self.rest else "grpc"
        address = self.address or _PORTS[protocol]
        headers = dict(_pair(header, "--header") for header in self.headers)
        with probe.connect(protocol, address, self.timeout) as server:
            try:
                path, body = self._request(server)
                answer = server.call(path, body, headers)
            except probe.ProbeError as error:
                raise click.ClickException(
                    f"{error}\n{_advice(str(error), protocol, address)}"
                ) from None
        pid = processes.listening_pid_or_none(address) if self.pid == "auto" else None
        if self.pid not in {"auto", "none"}:
            if not self.pid.isdecimal():
                raise click.UsageError("--pid should be a number, auto or none.")
            pid = int(self.pid)
        counted = self.requests is not None
        return Spec(
            protocol=protocol,
            address=address,
            path=path,
            body=body,
            load=self._loads()[0],
            seconds=None if counted else self.seconds or 8.0,
            requests=self.requests,
            warmup_s=self.warmup,
            timeout_s=self.timeout,
            connections=self.connections,
            threads=self.threads,
            headers=headers,
            expected=answer if self.check else None,
            pid=pid,
        )

    def _request(self, server: Any) -> tuple[str, bytes]:
        from servable.bench import probe, requests  # noqa: PLC0415 - slow to import

        if self.model is None:
            assert self.path is not None  # noqa: S101 - for the type checker
            assert self.body is not None  # noqa: S101 - for the type checker
            return self.path, self.body.read_bytes()
        model = requests.ModelSpec(
            self.model, self.signature, self.model_version, self.label
        )
        path = f"{model.url}:predict" if self.rest else probe.PREDICT_METHOD
        if self.body is not None:
            return path, self.body.read_bytes()
        inputs = requests.make_inputs(
            server.signature(model),
            dict(requests.parse_input(text) for text in self.inputs),
            self.batch,
            self.seed,
        )
        write = requests.rest_body if self.rest else requests.grpc_body
        return path, write(model, inputs)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} {text!r} should be NAME=VALUE.")
    return name, value


def _advice(error: str, protocol: str, address: str) -> str:
    if "INVALID_ARGUMENT" in error or " 400:" in error:
        return "If the model does not take random data, give its inputs with --input."
    if "NOT_FOUND" in error or " 404:" in error:
        return (
            "Which models there are, the server's log says; names are case-sensitive."
        )
    if "UNAVAILABLE" in error or "was not answered" in error:
        other = "gRPC (without --rest)" if protocol == "rest" else "REST (--rest)"
        return (
            f"Is the server running, and is {address} its {protocol.upper()} address? "
            f"The {other} address is another one."
        )
    return f"The server at {address} did not answer one request; no load was put on it."


def _measure(spec: Spec, loads: Sequence[Load]) -> list[tuple[Load, Report]]:
    from servable.bench.runner import run  # noqa: PLC0415 - loads the engine

    measured = []
    for load in loads:
        with click.progressbar(
            length=_STEPS,
            label=_describe(load),
            file=sys.stderr,
            hidden=not sys.stderr.isatty(),
        ) as progress:

            def show(part: float, progress: Any = progress) -> None:
                progress.update(round(part * _STEPS) - progress.pos)

            report = run(dataclasses.replace(spec, load=load), show)
            show(1.0)
        measured.append((load, report))
    return measured


def _describe(load: Load) -> str:
    match load:
        case ClosedLoop():
            return f"{load.in_flight} in flight"
        case OpenLoop():
            return f"{load.rate:g}/s"


def _print(spec: Spec, measured: Sequence[tuple[Load, Report]]) -> None:
    click.echo(f"{spec.protocol} {spec.address} {spec.path}")
    print_table(
        ("load", "answers/s", *_PERCENTILES, "CPU", "errors"),
        (_row(load, report) for load, report in measured),
        numbers=True,
    )
    click.echo("latency in ms, server CPU in µs per request")
    for line in _remarks(spec, measured):
        click.secho(printable(line), fg="yellow")


def _row(load: Load, report: Report) -> tuple[str, ...]:
    server = report["server"]
    return (
        _describe(load),
        f"{report['requests_per_s']:,.0f}",
        *(_ms(report["latency_us"][percentile]) for percentile in _PERCENTILES),
        f"{server['cpu_us_per_request']:.1f}" if server else "-",
        str(sum(error["count"] for error in report["errors"].values())),
    )


def _ms(microseconds: float) -> str:
    milliseconds = microseconds / 1e3
    digits = max(0, 3 - len(str(int(milliseconds))) + (milliseconds < 1))
    return f"{milliseconds:.{digits}f}"


def _remarks(spec: Spec, measured: Sequence[tuple[Load, Report]]) -> list[str]:
    """Return what a reader of the table should know before believing it."""
    lines = []
    if spec.pid is None:
        lines.append("No local server process was found or asked for: no CPU time.")
    for load, report in measured:
        for kind, error in report["errors"].items():
            first = error["message"][:300]
            lines.append(f"{_describe(load)}: {error['count']} x {kind}: {first}")
        busy = report["client_cpu_us_per_request"] * report["requests"] / 1e6
        if busy > 0.9 * spec.threads * max(report["seconds"], 1e-9):
            lines.append(
                f"{_describe(load)}: the generator itself was busy all the time; "
                "give it more --threads."
            )
        late = report["lateness_us"]["p99"]
        if late > report["latency_us"]["p50"] and late > 1e3:  # noqa: PLR2004
            lines.append(
                f"{_describe(load)}: requests left {_ms(late)} ms (p99) after they "
                "were due: the server or this machine could not keep the rate."
            )
    return lines


def _document(spec: Spec, measured: Sequence[tuple[Load, Report]]) -> dict[str, Any]:
    return {
        "protocol": spec.protocol,
        "address": spec.address,
        "path": spec.path,
        "request_bytes": len(spec.body),
        "connections": spec.connections,
        "threads": spec.threads,
        "warmup_s": spec.warmup_s,
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "points": [{"load": load_to_dict(load), **report} for load, report in measured],
    }
