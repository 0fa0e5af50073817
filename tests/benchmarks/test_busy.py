"""`benchmarks.busy`: every method is timed, and its busy processes end."""

import subprocess

import pytest

from benchmarks import busy


def test_every_method_is_timed() -> None:
    pytest.importorskip("faiss", reason="FAISS is one of the methods")
    found = busy.times(2048, 96, seconds=0)
    assert found.keys() == busy.EFFORTS.keys()
    assert all(0 < figures["min"] <= figures["p50"] <= figures["p99"] for figures in found.values())


def test_busy_processes_run_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            super().__init__(command)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    with busy.busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert [process.poll() for process in started] == [-9, -9]
