"""`python -m engine`."""

import sys


def main() -> None:
    """Run a command; what the user got wrong is one line on stderr and exit code 2, never a traceback."""
    from engine.threads import wait_passively

    wait_passively()  # before anything loads torch
    from engine.cli import app
    from engine.errors import EngineError

    try:
        app()
    except EngineError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
