"""Which segments a save writes anew as one: else every save would leave one more, and deleted rows would stay.

Neighbours only, so that items keep their order; docs/decisions/0010-segments-merge.md says why it is so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

import numpy as np

from engine.index import directory as files
from engine.index.changes import are_many
from engine.index.directory import Draft, blocks_of, digest_of
from engine.index.manifest import StoredSegment, dtype_name
from engine.index.segment import Segment, join

FAN = 8  # the segments of a level that become one of the next
SMALLEST = 1 << 20  # bytes below which a segment is of level 0
LEVELS = 5  # that merge; beyond them, from 4 GiB on, a segment stays as it is
ITEM_BYTES = 256  # what an item takes beside its vectors, about


@dataclass(frozen=True)
class Group:
    """Neighbouring segments that become one, without its deleted rows if `dropping`; or one that stays as it is."""

    segments: tuple[Segment, ...]
    weight: int
    dropping: bool = False

    @property
    def rewritten(self) -> bool:
        return self.dropping or len(self.segments) > 1

    @property
    def deleted(self) -> int:
        return sum(len(segment.deleted) for segment in self.segments)


def grouped(segments: Sequence[Segment]) -> list[Group]:
    """All segments in their order, those together that become one; what is all deleted may be left out."""
    groups = [Group((segment,), _weight(segment)) for segment in segments]
    for level in range(LEVELS):
        groups = list(_merged(groups, level))
    dropping = [replace(g, dropping=True) if _drops(g) else g for g in groups]
    gone = sum(group.deleted for group in dropping if group.dropping)
    if not are_many(gone, segments):
        return groups
    return [g for g in dropping if not g.dropping or any(s.live_count for s in g.segments)]


def _merged(groups: Sequence[Group], level: int) -> Iterator[Group]:
    """Neighbours of at most this level as one, where that is worth it."""
    runs = [(low, list(run)) for low, run in groupby(groups, lambda g: _level(g.weight) <= level)]
    for number, (low, run) in enumerate(runs):
        weight = sum(group.weight for group in run)
        grown = _level(weight) > level  # so each item is written once a level
        many = level == 0 and len(run) >= FAN  # little to write
        over = number + 1 < len(runs)  # a larger segment follows: these will not grow any more
        if low and len(run) > 1 and (grown or many or over):
            yield Group(tuple(chain.from_iterable(group.segments for group in run)), weight)
        else:
            yield from run


def _drops(group: Group) -> bool:
    """Whether the group is written anyway, or at least half of it is deleted: so the rest is no more than that."""
    return group.deleted > 0 and (
        len(group.segments) > 1 or 2 * group.deleted >= len(group.segments[0])
    )


def _weight(segment: Segment) -> int:
    metadata = 0 if segment.metadata is None else len(segment.metadata.parquet)
    return segment.coarse.nbytes + segment.fine.nbytes + metadata + len(segment) * ITEM_BYTES


def _level(weight: int) -> int:
    level = 0
    while weight >= SMALLEST * FAN**level:
        level += 1
    return level


def write_group(draft: Draft, group: Group, *, here: bool) -> list[StoredSegment]:
    """Write what the directory, if it is that of the group's files (`here`), does not hold yet.

    What is damaged is not written anew: a new checksum would hide it from `verify`.
    """
    if group.rewritten and all(map(_whole, group.segments)):
        return [write_merged(draft, group.segments, dropping=group.dropping)]
    return [draft.write_segment(s, s.files if here else {}) for s in group.segments]


def _whole(segment: Segment) -> bool:
    held = files.arrays_of(segment)
    return all(digest_of(held[name]) == file.sha256 for name, file in segment.files.items())


def write_merged(draft: Draft, segments: Sequence[Segment], *, dropping: bool) -> StoredSegment:
    """Segments as one, or, `dropping`, their rows that are not deleted: vectors in pieces, the rest in memory."""
    segments = [segment for segment in segments if segment.live_count or not dropping]
    thin = [replace(s, coarse=s.coarse[:, :0], fine=s.fine[:, :0]) for s in segments]
    rest = join(thin, dropping=dropping)
    stored = {}
    for name, array in files.arrays_of(rest).items():
        if name in ("coarse", "fine"):
            whole = getattr(segments[0], name)
            pieces = chain.from_iterable(
                blocks_of(getattr(s, name), np.flatnonzero(s.live()) if dropping else None)
                for s in segments
            )
            shape = (len(rest), whole.shape[1])
            stored[name] = draft.write(name, dtype_name(whole), shape, pieces)
        else:
            stored[name] = draft.write_array(name, array)
    return StoredSegment(len(rest), stored)
