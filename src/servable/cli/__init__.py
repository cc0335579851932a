"""
The executables: `servable`, and `tensorflow_model_server` for those who had that one.

Nothing is imported before it is known what is wanted.
"""


def main() -> None:
    """Run `servable` with the arguments of this process."""
    from servable.cli.commands import servable  # noqa: PLC0415 - see above

    servable(prog_name="servable")
