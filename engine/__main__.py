"""`python -m engine`."""

import sys


def main() -> None:
    """Run a command; what the user got wrong is one line on stderr and exit code 2, never a traceback."""
    from engine.cli import app
    from engine.errors import EngineError
    from engine.terminal import visible, write_anything

    write_anything()
    try:
        app()
    except EngineError as error:
        print("error:", visible(" ".join(str(error).split())), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
