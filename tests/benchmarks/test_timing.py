"""`benchmarks.timing.take_turns`: which calls of a run are timed."""

from benchmarks.timing import take_turns


class Run:
    calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_without_a_pause_one_call_of_two_is_timed() -> None:
    runs = {"a": Run(), "b": Run()}
    times = take_turns(runs, seconds=60, most=5, pause=0)
    assert [len(times[name]) for name in runs] == [5, 5]
    assert [run.calls for run in runs.values()] == [1 + 2 * 5] * 2  # one to see what it costs


def test_after_a_pause_it_is_warmed_as_long_and_timed_as_long() -> None:
    run = Run()
    times = take_turns({"it": run}, seconds=60, most=3, pause=0.02)["it"]
    assert len(times) > 3
    assert run.calls - 1 - len(times) > 3  # not timed


def test_what_is_costly_is_called_once_a_turn_and_once_when_the_time_is_over() -> None:
    run = Run()
    assert len(take_turns({"it": run}, seconds=60, most=4, costly=-1, pause=0.02)["it"]) == 4
    assert run.calls == 1 + 4
    assert len(take_turns({"it": run}, seconds=0, least=3, costly=-1, pause=0)["it"]) == 1
    assert len(take_turns({"it": run}, seconds=0, least=3, costly=9, pause=0)["it"]) == 3
