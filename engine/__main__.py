"""`python -m engine`."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run a command; `engine.cli.ending` says how it ends."""
    try:
        from engine.cli.ending import run_command
    except KeyboardInterrupt:  # while what ends a command is loaded
        print("stopped", file=sys.stderr)
        sys.exit(130)
    run_command(_app)


def _app() -> "typer.Typer":
    from engine.cli.commands import app

    return app


if __name__ == "__main__":
    main()
