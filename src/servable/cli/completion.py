"""`servable completion`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print the completion script of a SHELL.

    \b
    bash  eval "$(servable completion bash)"     in ~/.bashrc
    zsh   eval "$(servable completion zsh)"      in ~/.zshrc
    fish  servable completion fish | source      in ~/.config/fish/config.fish
    """  # noqa: D301 - click takes the backspace for a paragraph to leave alone
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    root = ctx.find_root()
    click.echo(found(root.command, {}, "servable", "_SERVABLE_COMPLETE").source())
