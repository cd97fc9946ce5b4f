"""What the embedded stack adds to the `bucky` command line."""

import typer

from local_stack.commands import down, up
from local_stack.demo import demo
from local_stack.doctor import doctor


def register(app: typer.Typer) -> None:
    """Add the stack's commands."""
    for command in (up, down, demo, doctor):
        app.command()(command)
