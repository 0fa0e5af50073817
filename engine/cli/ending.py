"""How every command ends: its data on stdout, one line on stderr where it could not do its work, an exit code.

    0    done
    2    usage, bad input, or the system refused: a full disk, no permission, a folder where a file should be
    1    out of memory, or nobody reads stdout any more
    130  stopped by Ctrl-C

A traceback is a fault of this program.
"""

import os
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, TextIO, get_args

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup

from engine.system.terminal import visible, write_anything
from engine.system.threads import wait_passively

BAD_INPUT, FAILED, STOPPED = 2, 1, 130
# Of click's, which typer brings within itself or as a package, by its version.
UsageError: Any = BadParameter.__mro__[1]
# Of torch's allocators, on a CPU and on a GPU; NumPy's raise MemoryError.
_NO_MEMORY = ("can't allocate memory", "out of memory")
# Of torch.save and of safetensors, which raise no OSError.
_NOT_WRITTEN = ("iostream error", "PytorchStreamWriter failed", "(os error ")


class _Ends:
    """Wrong usage and Ctrl-C end a command with a line, whatever it was doing."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})  # type: ignore[misc]
        except UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
                sys.exit(BAD_INPUT)
            path = "python -m engine" if error.ctx is None else error.ctx.command_path
            _end(BAD_INPUT, f"{error.format_message().rstrip('.')}. See {path} --help")
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)  # type: ignore[misc]
        except KeyboardInterrupt:
            say("stopped")
            raise SystemExit(STOPPED) from None


class Command(_Ends, TyperCommand):
    """One command, as `typer.Typer.command(cls=…)` takes it; a path that is given must be one.

    An empty one, as from a variable that is not set, would be the current directory.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from engine.checks import check_path

        try:
            given, *_ = self.make_parser(ctx).parse_args(args=list(args))
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise
        assert self.callback is not None
        for name, parameter in signature(self.callback).parameters.items():
            if _is_path(parameter.annotation):
                values = given.get(name)
                for value in values if isinstance(values, list | tuple) else [values]:
                    if isinstance(value, str):
                        check_path(name, value)
        return super().parse_args(ctx, args)


def _is_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_is_path, get_args(annotation)))


class Commands(_Ends, TyperGroup):
    """Several, as `typer.Typer(cls=…)` takes them."""


def run_command(load: Callable[[], Callable[[], Any]]) -> None:
    """Run the app that `load` imports; what went wrong ends in a line and `SystemExit`, as said above."""
    wait_passively()  # before anything loads torch
    from engine.errors import EngineError

    write_anything()
    try:
        load()()
    except EngineError as error:
        _end(BAD_INPUT, str(error))
    except MemoryError as error:
        _end(FAILED, f"out of memory. {error}")
    except _errors_of_libraries() as error:
        said = f"{error} {error.__context__ or ''}"
        if any(sign in said for sign in _NO_MEMORY):
            _end(FAILED, str(error))
        if not any(sign in said for sign in _NOT_WRITTEN):
            raise
        _end(BAD_INPUT, f"a file could not be read or written: {error}. Is the disk full?")
    except BrokenPipeError:
        _let_go(sys.stdout)
        sys.exit(FAILED)
    except OSError as error:
        _end(BAD_INPUT, _said(error))
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(STOPPED)


def _errors_of_libraries() -> tuple[type[Exception], ...]:
    """What torch raises where memory or a disk is full, and safetensors, if anybody has imported it."""
    module = sys.modules.get("safetensors")
    return (RuntimeError,) if module is None else (RuntimeError, module.SafetensorError)


def say(*words: object) -> None:
    """One line on stderr, if anybody reads it."""
    line = visible(" ".join(" ".join(map(str, words)).split()))
    if sys.stderr is not None:  # print would take stdout
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            _let_go(sys.stderr)


def _end(code: int, why: str) -> None:
    say("error:", why)
    _let_go(sys.stdout)
    sys.exit(code)


def _said(error: OSError) -> str:
    """What the system said of which file: "[Errno 28] …" is for programs."""
    files = " and ".join(
        str(file) for file in (error.filename, error.filename2) if file is not None
    )
    what = error.strerror or str(error) or type(error).__name__
    return f"{files}: {what}" if files else what


def _let_go(stream: TextIO | None) -> None:
    """Drop what cannot be written: Python would try once more at the end, and complain."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
