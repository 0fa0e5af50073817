"""`python -m engine`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run a command; `engine.cli.ending` says how it ends."""
    from engine.cli.ending import run_command

    run_command(_app)


def _app() -> "typer.Typer":
    from engine.cli.commands import app

    return app


if __name__ == "__main__":
    main()
