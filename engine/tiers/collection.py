"""`Collection`: an index that changes, with the snapshot that searches read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.coarse.relearning import (
    fitted,
    learns_from,
    measured,
    relearned,
    relearned_whole,
)
from engine.embeddings import Embeddings, as_array
from engine.errors import InvalidArgument, storing
from engine.index import Calibration, Id, Index, OnConflict, WriterLock
from engine.system.forks import forkable_lock, tell_after_fork
from engine.tiers.plan import FineTier, pick_tier, vector_bytes
from engine.tiers.snapshot import Snapshot


class Collection:
    """An index on its search device, until it is closed.

    `snapshot` may be read at any time and stays what it was; one thread at a time makes another. The first change
    to an index that lies in a directory takes the directory's writer lock, and keeps it until `close`.
    """

    def __init__(self, index: Index, device: torch.device, fine_tier: FineTier) -> None:
        rows = vector_bytes(index.header, index.row_count)
        self.tier = pick_tier(fine_tier, device, *rows, saved=index.path is not None)
        self._device = device
        self._changing = forkable_lock()
        self._writer: WriterLock | None = None
        self._snapshot: Snapshot | None = Snapshot.of(index, device, self.tier)
        tell_after_fork(self)

    @property
    def snapshot(self) -> Snapshot:
        """What searches read now; InvalidArgument once this is closed."""
        snapshot = self._snapshot
        if snapshot is None:
            raise _closed()
        return snapshot

    @property
    def is_closed(self) -> bool:
        return self._snapshot is None

    def after_fork(self) -> None:
        """In a forked child torch's threads are not there, and whoever gives them work waits for ever."""
        torch.set_num_threads(1)

    def add(
        self,
        added: Embeddings,
        ids: Sequence[Id] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        on_conflict: OnConflict,
    ) -> int:
        """All of them, or an error and no change; how many are new."""
        with self._changing:
            snapshot = self.snapshot
            if added.coarse is None and learns_from(snapshot.index, added.fine):
                # Checked first: one NaN would spoil every coarse vector.
                snapshot.projection.queries(added, coarse_too=False)
                index = relearned(snapshot.index, added.fine)
                snapshot = Snapshot.of(index, self._device, self.tier)
            vectors = snapshot.projection.items(added)
            assert vectors.coarse is not None  # `items` sees to it
            index, coarse = fitted(snapshot.index, vectors.coarse)
            new = Index.build(
                as_array(coarse.cpu()),
                vectors.fine.cpu().numpy(),
                ids=index.next_ids(len(added)) if ids is None else ids,
                metadata=metadata,
                quantization=index.header.quantization,
            )
            grown = index.append(new, on_conflict)
            if grown is index:  # all were there, and skipped
                return 0
            changed = len(new) + max(0, len(index) + len(new) - len(grown))
            reduced = vectors.fine if added.coarse is None else None
            self._swap(measured(grown, reduced, changed), snapshot)
            return len(grown) - len(index) if on_conflict == "skip" else len(new)

    def remove(self, ids: Sequence[Id]) -> int:
        """How many; UnknownId, and no change, if one is not there."""
        with self._changing:
            before = self.snapshot.index
            left = before.without(ids)
            gone = len(before) - len(left)
            self._swap(measured(left, None, gone), self.snapshot)
            return gone

    def calibrate(self, calibration: Calibration) -> None:
        """Remember it; in the directory from the next `save`."""
        with self._changing:
            index = self.snapshot.index
            header = replace(index.header, calibration=calibration)
            self._swap(replace(index, header=header), self.snapshot)

    def relearn(self, queries: Embeddings | None) -> None:
        """Reduction and scale anew, from the fine vectors; in the directory from the next `save`."""
        with self._changing:
            index = self.snapshot.index
            if index.path is not None:
                self._hold(index)
            made = relearned_whole(index, None if queries is None else queries.fine.cpu().float())
            self._snapshot = Snapshot.of(made, self._device, self.tier)

    def compact(self) -> None:
        """Rows change, ids do not; where the index lies in a directory, it is saved."""
        with self._changing:
            index = self.snapshot.index
            if index.path is not None:
                self._hold(index)
            self._snapshot = Snapshot.of(index.compact(self._writer), self._device, self.tier)

    def save(self, path: str | Path | None, overwrite: bool) -> None:
        """Another place than the index's own gets a copy; an index that has no place yet stays in the first."""
        with self._changing:
            index = self.snapshot.index
            saved = index.save(path, self._writer, overwrite=overwrite)
            if index.path in (None, saved.path):
                self._snapshot = Snapshot.of(saved, self._device, self.tier, self.snapshot)

    def refresh(self) -> bool:
        """Move on to what the directory holds now; whether that is something new."""
        with self._changing:
            index = self.snapshot.index
            if index.path is not None and index.unsaved:
                raise InvalidArgument(
                    "refresh",
                    expected="an index without changes that are not saved",
                    got=repr(index),
                    remedy="Call save(), or open the index anew to let go of them.",
                )
            fresh = index.refreshed()
            if fresh.published == index.published:
                return False
            self._snapshot = Snapshot.of(fresh, self._device, self.tier, self.snapshot)
            return True

    def close(self) -> None:
        """Let go of the vectors and of the writer lock; changes that were not saved are lost."""
        with self._changing:
            self._snapshot = None
            if self._writer is not None:
                self._writer.release()
                self._writer = None

    def _swap(self, index: Index, before: Snapshot) -> None:
        """Show `index`, which was made of that of `before`."""
        if index is self.snapshot.index:
            return
        if index.path is not None:
            self._hold(index)
        self._snapshot = Snapshot.of(index, self._device, self.tier, before)

    def _hold(self, index: Index) -> None:
        """Take the writer lock, unless held; IndexChanged if somebody has published in between."""
        assert index.path is not None  # callers look
        if self._writer is not None and self._writer.is_of(index.path):
            return
        with storing(index.path):
            lock = WriterLock.take(index.path)
        try:
            index.check_current()
        except BaseException:
            lock.release()
            raise
        self._writer = lock

    def write_under(self, lock: WriterLock) -> None:
        """Use this writer lock, which the caller took; `close` lets go of it."""
        if not isinstance(lock, WriterLock):
            raise InvalidArgument(
                "lock",
                expected="an engine.index.WriterLock",
                got=repr(lock),
                remedy="Take one first: `WriterLock.take(directory)`.",
            )
        with self._changing:
            if self.is_closed:
                raise _closed()
            self._writer = lock


def _closed() -> InvalidArgument:
    return InvalidArgument(
        "retriever",
        expected="one that is open",
        got="one that was closed",
        remedy="Open it again: Retriever(path).",
    )
