"""One writer, four readers: `python -m tests.engine.index.readers PLACE [--seconds 60] [--seed 0] [--plant]`.

The writer adds, replaces, removes, saves and compacts; the number of its last save stands in an item of its own.
Each reader, a process, refreshes and searches all the time: every answer must be that of exactly one saved state.
"""

import argparse
import json
import os
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
from tests.engine.index.model import COARSE, FINE, State, changed, merging_often, steps

READERS, MARK, SAVES = 4, -1, 100_000
QUERIES = np.array([[3, -1, 4, 1, -5], [2, 7, -1, 8, 2]], dtype=np.float32)


def expected(state: State) -> list[list[float]]:
    """Scores of the best five of a state, for every query, -inf where it has fewer items."""
    vectors = [np.frombuffer(held, np.float32)[COARSE:] for held in state.values()]
    fine = np.array(vectors, np.float32).reshape(-1, FINE)
    scores = np.pad(QUERIES @ fine.T, ((0, 0), (0, 5)), constant_values=-np.inf)
    return np.asarray(-np.sort(-scores, axis=1)[:, :5]).tolist()


def marked(number: int) -> Any:
    """The item that says which save this is."""
    fine = torch.zeros(1, FINE)
    fine[0, 0] = number
    return engine.Embeddings(torch.zeros(1, COARSE), fine)


def write(place: Path, seed: int, until: float, plant: bool) -> int:
    """Change and save until the time is over; the number of saves."""
    count = 0
    with merging_often(), engine.Retriever(place) as r:
        for count, step in enumerate(islice(steps(seed), SAVES), start=1):
            if time.monotonic() > until:
                return count - 1
            if step.kind == "remove":
                r.remove(step.ids)
            elif step.kind != "compact":
                vectors = engine.Embeddings(*map(torch.from_numpy, step.vectors()))
                conflict: Any = "replace" if step.kind == "replace" else "error"
                r.add(embeddings=vectors, ids=step.ids, on_conflict=conflict)
            if plant:
                r.save()  # the change, without its number
            r.add(embeddings=marked(count), ids=[MARK], on_conflict="replace")
            if step.kind == "compact":
                r.compact()
            else:
                r.save()
    return count


def read(place: Path, seed: int, until: float) -> dict[str, int]:
    """Refresh and search until the time is over; how many answers were right, how many states seen."""
    coming, known, last = steps(seed), [{}], 0  # type: ignore[var-annotated]
    counts = {"answers": 0, "wrong": 0, "states": 0, "backwards": 0}
    r = engine.Retriever(place)
    while time.monotonic() < until:
        r.refresh()
        row = int(r.index.rows_of([MARK])[0])
        number = int(r.index.fine[row, 0])
        while len(known) <= number:
            known.append(changed(known[-1], next(coming)))
        found = r.search(QUERIES, 5, mode="exact", filter=_all_but_mark(r, row))
        counts["wrong"] += found.scores.tolist() != expected(known[number])
        counts["wrong"] += len(r) != len(known[number]) + 1
        counts["answers"] += 1
        counts["states"] += number != last
        counts["backwards"] += number < last
        last = number
    return counts


def _all_but_mark(r: engine.Retriever, row: int) -> Any:
    mask = np.ones(r.index.row_count, dtype=bool)
    mask[row] = False
    return mask


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    first = marked(0)
    engine.Retriever.from_embeddings(first.fine, first.coarse, ids=[MARK]).save(given.place)
    until = time.monotonic() + given.seconds
    pipes, children = [], []
    for _ in range(READERS):
        out, into = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(into, json.dumps(read(given.place, given.seed, until)).encode())
            except BaseException as error:  # noqa: BLE001 - what ended a reader is the finding
                os.write(into, json.dumps({"error": repr(error)}).encode())
            finally:
                os._exit(0)
        os.close(into)
        pipes.append(out)
        children.append(child)
    saves = write(given.place, given.seed, until, given.plant)
    answers = [json.loads(os.read(out, 10_000)) for out in pipes]
    for child in children:
        os.waitpid(child, 0)
    print(json.dumps({"saves": saves, "readers": answers}))


if __name__ == "__main__":
    signal.alarm(600)
    main()
