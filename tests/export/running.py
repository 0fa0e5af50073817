"""The command, run in this process."""

import sys
from collections.abc import Callable

import pytest

from export import cli


def run_here(function: Callable[..., None], *arguments: object) -> int:
    """The same command in this process: importing torch and transformers again costs seconds."""
    command = cli.command(function)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["export", *map(str, arguments)])
            cli.main(command)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0
