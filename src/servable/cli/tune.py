"""
`servable tune`: find batching parameters for a latency target, by measuring.

The model is served in this process, once for each setting, and put under load as
`servable bench` does; choosing and drawing are in servable.bench.tune.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from servable.bench.runner import ClosedLoop, Spec
from servable.cli.measuring import check_that_plots_can_be_drawn, input_option
from servable.cli.quiet import quiet_tensorflow
from servable.cli.saved_model_summary import find_version
from servable.errors import InvalidArgument, ServingError

if TYPE_CHECKING:
    from servable.bench.tune import Point, Setting

_MODEL: Final = "tuned"


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--target-p99-ms",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="What 99 of 100 requests shall stay below.",
)
@click.option("--signature", default="serving_default", show_default=True)
@input_option
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="The largest size to try; powers of two below it are tried, too.",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="The highest load to try.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="How long each load of each setting is measured.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("batching.txt"),
    show_default=True,
    help="The file to write, for --batching_parameters_file.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a picture (PNG) of latency against throughput; needs matplotlib.",
)
def tune(
    *,
    model: Path,
    target_p99_ms: float,
    signature: str,
    inputs: Sequence[str],
    max_batch_size: int,
    max_in_flight: int,
    seconds: float,
    output: Path,
    plot: Path | None,
) -> None:
    """
    Find batching parameters for MODEL, the directory that holds its versions.

    The newest version is served with one size of batches after the other.  The file
    that is written has the size with which most requests were answered while their
    p99 stayed within the target.  The exit status is 1 if no size can do that.
    """
    from servable.bench import tune as choosing  # noqa: PLC0415 - loads the engine

    quiet_tensorflow()
    check_that_plots_can_be_drawn(plot)
    points: list[Point] = []
    sizes = [0, *_powers_of_two(2, max_batch_size)]
    loads = [ClosedLoop(number) for number in _powers_of_two(1, max_in_flight)]
    try:
        _check_that_versions_are_in(model)
        for size in sizes:
            setting = choosing.Setting(size)
            with _serve(model, setting) as address:
                spec = _spec(address, signature, inputs, seconds)
                points += _measure(spec, setting, loads)
    except (ServingError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if plot is not None:
        choosing.draw(
            plot, f"{model.name}, p99 of {target_p99_ms:g} ms", points, target_p99_ms
        )
    _conclude(points, target_p99_ms, output)


def _check_that_versions_are_in(model: Path) -> None:
    """A server waits for what is not there yet; a measurement has to begin."""
    _, number, _ = find_version(model)
    if number is None:
        raise InvalidArgument(
            f"{model} is a version itself; give the directory that it is in"
        )


def _conclude(points: "Sequence[Point]", target_p99_ms: float, output: Path) -> None:
    from servable.bench import tune as choosing  # noqa: PLC0415 - loads the engine

    batched = [point for point in points if point.setting.max_batch_size]
    found = choosing.best(batched, target_p99_ms)
    if found is None:
        least = min(point.p99_ms for point in batched)
        raise click.ClickException(
            f"With no size of batches p99 stays below {target_p99_ms:g} ms; the least "
            f"was {least:.2f} ms."
        )
    text = choosing.parameters_file(found, target_p99_ms, _cores())
    output.write_text(text)
    click.echo(f"{output}:\n{text}", nl=False)
    alone = choosing.best(
        [point for point in points if not point.setting.max_batch_size], target_p99_ms
    )
    if alone is not None:
        gain = found.requests_per_s / alone.requests_per_s
        click.echo(
            f"That is {gain:.2f} times what the model answers without batching"
            + ("." if gain > 1 else ", so serve it without.")
        )


@contextlib.contextmanager
def _serve(model: Path, setting: "Setting") -> Iterator[str]:
    """Serve with *setting*; the address."""
    from servable.config.server_options import ServerOptions  # noqa: PLC0415 - slow
    from servable.server import Server  # noqa: PLC0415 - the same

    with tempfile.TemporaryDirectory() as folder:
        parameters = Path(folder) / "batching.txt"
        parameters.write_text(setting.to_text_proto(_cores()))
        is_batched = bool(setting.max_batch_size)
        options = ServerOptions(
            model_name=_MODEL,
            model_base_path=str(model.absolute()),
            grpc_host="127.0.0.1",
            grpc_port=0,
            max_num_load_retries=0,
            enable_batching=is_batched,
            batching_parameters_file=str(parameters) if is_batched else "",
        )
        with Server(options) as server:
            yield f"127.0.0.1:{server.grpc_port}"


def _spec(address: str, signature: str, inputs: Sequence[str], seconds: float) -> Spec:
    from servable.bench import probe, requests  # noqa: PLC0415 - slow to import

    model = requests.ModelSpec(_MODEL, signature)
    with probe.connect("grpc", address, 30.0) as server:
        values = requests.make_inputs(
            server.signature(model),
            dict(requests.parse_input(text) for text in inputs),
        )
        body = requests.grpc_body(model, values)
        try:
            server.call(probe.PREDICT_METHOD, body, {})
        except probe.ProbeError as error:
            raise click.ClickException(
                f"{error}\nIf the model does not take random data, give its inputs "
                "with --input."
            ) from None
    return Spec(
        protocol="grpc",
        address=address,
        path=probe.PREDICT_METHOD,
        body=body,
        load=ClosedLoop(1),
        seconds=seconds,
        warmup_s=min(seconds / 2, 1.0),
    )


def _measure(
    spec: Spec, setting: "Setting", loads: Sequence[ClosedLoop]
) -> "list[Point]":
    from servable.bench.runner import run  # noqa: PLC0415 - loads the engine
    from servable.bench.tune import Point  # noqa: PLC0415 - the same

    points = []
    for load in loads:
        point = Point.of(setting, load, run(dataclasses.replace(spec, load=load)))
        click.echo(
            f"{setting!s:>14}, {load.in_flight:4} in flight: "
            f"{point.requests_per_s:9,.0f}/s, p50 {point.p50_ms:8.2f} ms, "
            f"p99 {point.p99_ms:8.2f} ms"
            + (f", {point.errors} errors" if point.errors else ""),
            err=True,
        )
        points.append(point)
    return points


def _powers_of_two(first: int, last: int) -> list[int]:
    """Return *first*, its doubles, and *last*."""
    numbers: list[int] = []
    while first < last:
        numbers.append(first)
        first *= 2
    return [*numbers, last]


def _cores() -> int:
    return len(os.sched_getaffinity(0))
