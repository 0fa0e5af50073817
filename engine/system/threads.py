"""How the threads of a command wait for work: docs/guides/threads.md."""

import os


def wait_passively() -> None:
    """Let OpenMP's threads sleep between two pieces of work, unless the user has set otherwise.

    By default they spin for a while, which takes the cores from whoever has work to do: on a busy machine searches
    become many times slower. OpenMP reads this once, when torch is loaded: call it before. Commands do; a library
    leaves the environment to its program.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
