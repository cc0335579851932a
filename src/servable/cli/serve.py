"""`servable serve`: the model server, with the defaults of today."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

import click

from servable.cli import process
from servable.cli.flags import FLAGS, Flag, FlagType, ParsedFlags, parse
from servable.sources.urls import scheme_of

# What differs from the drop-in: REST is on, and the ports open at once.
_DEFAULTS: Final[dict[str, int | bool]] = {
    "rest_api_port": 8501,
    "rest_api_extensions": True,
    "wait_for_models": False,
}
# Whose base paths say behind the model's name which version or directory is meant.
_MLFLOW: Final = frozenset({"models", "mlflow", "mlflow+https"})
SERVE_FLAGS: Final[tuple[Flag, ...]] = tuple(
    dataclasses.replace(flag, default=_DEFAULTS[flag.name])
    if flag.name in _DEFAULTS
    else flag
    for flag in FLAGS
    if flag.name != "version"
)


_TYPES: Final = {flag.name: flag.type for flag in SERVE_FLAGS}
_TAKES: Final = {
    FlagType.BOOL: "true or false",
    FlagType.INT32: "a whole number of 32 bits",
    FlagType.INT64: "a whole number of 64 bits",
    FlagType.FLOAT: "a number",
}


class FlagsCommand(click.Command):
    """
    A command whose options are the table of flags, read by the table's own rules.

    click's part is the help text and the completion.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read *args*; what is unknown or malformed is a usage error."""
        if ctx.resilient_parsing:  # completion: click looks at the options itself
            return []
        parsed = parse(args, SERVE_FLAGS)
        if parsed.wants_help:
            click.echo(self.get_help(ctx))
            ctx.exit()
        for name, text in parsed.malformed:
            wanted = _TAKES[_TYPES[name]]
            raise click.BadParameter(f"{text!r} is not {wanted}.", ctx, None, name)
        for argument in parsed.unknown:
            if argument not in parsed.positional:
                raise click.NoSuchOption(argument, ctx=ctx)
        ctx.params = {"parsed": parsed}
        return []


def _option(flag: Flag) -> click.Option:
    types: dict[FlagType, Any] = {
        FlagType.BOOL: bool,
        FlagType.INT32: int,
        FlagType.INT64: int,
        FlagType.FLOAT: float,
        FlagType.STRING: str,
    }
    is_path = flag.name.endswith(("_file", "_path")) and flag.name != "metrics_path"
    return click.Option(
        [f"--{flag.name}"],
        type=click.Path() if is_path else types[flag.type],
        is_flag=flag.type is FlagType.BOOL,
        default=flag.default,
        show_default=flag.type is not FlagType.STRING or bool(flag.default),
        help=flag.help + (f" No effect: {flag.inert}." if flag.inert else ""),
    )


def with_directories(parsed: ParsedFlags) -> ParsedFlags:
    """
    Return *parsed* with its positional directory or URL as the one model to serve.

    The model has the directory's name unless --model_name says another.

    Raises:
        click.UsageError: There are several, or it is not a model's directory.
    """
    if not parsed.positional:
        return parsed
    if len(parsed.positional) > 1:
        raise click.UsageError(
            "One directory can be served; for more models write a --model_config_file."
        )
    if scheme_of(parsed.positional[0]) != "file":
        return _with_base_path(parsed, parsed.positional[0])
    path = Path(os.path.abspath(parsed.positional[0]))  # noqa: PTH100 - links stay
    if not path.is_dir():
        raise click.UsageError(f"{path} is not a directory.")
    if (path / "saved_model.pb").exists():
        raise click.UsageError(
            f"{path} is one version.  Versions have numbers for names, as in "
            f"{path}/1, and the directory above them is what is served."
        )
    return _with_base_path(parsed, str(path))


def _with_base_path(parsed: ParsedFlags, base_path: str) -> ParsedFlags:
    values = dict(parsed.values) | {"model_base_path": base_path}
    if "model_name" not in parsed.given:
        values["model_name"] = _name_in(base_path)
    return dataclasses.replace(parsed, values=values)


def _name_in(base_path: str) -> str:
    place, _, behind = base_path.partition("?")[0].partition("#")
    last = place.rstrip("/").rpartition("/")[2]
    if scheme_of(base_path) in _MLFLOW:
        return last.partition("@")[0]
    return behind or last  # which in a database is the model


@click.command(
    cls=FlagsCommand,
    params=[_option(flag) for flag in SERVE_FLAGS],
    options_metavar="[FLAGS] [DIR]",
)
def serve(parsed: ParsedFlags) -> None:
    """
    Serve models over gRPC and REST.

    DIR, a directory or a URL, holds one model, each of its versions in a directory
    named by its number; several models take a --model_config_file.  The flags are
    those of TensorFlow Serving's tensorflow_model_server, and some more.

    The ports open at once; requests for a model are answered as soon as it is
    loaded.  SIGTERM and SIGINT let requests finish, a second one does not.
    """
    process.leave(process.serve(with_directories(parsed), SERVE_FLAGS))
