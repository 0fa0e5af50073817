"""What `append`, `without` and `compact` make of an index, in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np

from engine.errors import InvalidArgument
from engine.index.columns import check_fits, common_schema
from engine.index.contents import Contents
from engine.index.segment import Rows, Segment, join
from engine.index.strings import Strings

C = TypeVar("C", bound=Contents)
OnConflict: TypeAlias = Literal["error", "replace", "skip"]

MERGED_ROWS = 1 << 16  # segments that are not saved yet grow together up to so many rows
DROPPED, FEWEST_DROPPED = (
    64,
    32,
)  # deleted rows go once they are one in so many, and no fewer than that


def append(index: C, other: Contents, on_conflict: OnConflict) -> C:
    """`index` and the items of `other`."""
    if on_conflict not in get_args(OnConflict):
        raise InvalidArgument(
            "on_conflict",
            expected='"error", "replace" or "skip"',
            got=repr(on_conflict),
            remedy="Use one of these.",
        )
    _check_alike(index, other)
    if not len(other):
        return index
    if not len(index):  # whose ids may have been of the other kind
        index = replace(index, segments=())
    new = compacted(other.segments)
    wanted = list(new.ids) if isinstance(new.ids, Strings) else new.ids.tolist()
    taken = index.find(wanted)
    if (taken >= 0).any():
        if on_conflict == "error":
            raise InvalidArgument(
                "ids",
                expected="ids that the index does not hold yet",
                got=repr(wanted[int((taken >= 0).argmax())]),
                remedy='Remove the old item, choose another id, or pass on_conflict="replace" or "skip".',
            )
        if on_conflict == "replace":
            index = without_rows(index, taken[taken >= 0])
        else:
            new = new.take(np.flatnonzero(taken < 0))
            if not len(new):
                return index
    held = [segment.metadata for segment in (*index.segments, new) if segment.metadata is not None]
    if new.metadata is not None and len(held) > 1:
        wanted, before = common_schema(held), common_schema(held[:-1])
        widened = any(
            wanted.field(field.name).type != field.type for field in before
        )  # then what is there must fit, too
        for columns in held if widened else [new.metadata]:
            check_fits(columns, wanted)
    return replace(index, segments=_settled([*index.segments, new]))


def without_rows(index: C, rows: Rows) -> C:
    """`index`, these rows deleted."""
    if not len(rows):
        return index
    segments, first = [], 0
    for segment in index.segments:
        here = rows[(rows >= first) & (rows < first + len(segment))] - first
        segments.append(segment.without(here) if len(here) else segment)
        first += len(segment)
    return replace(index, segments=tuple(segments))


def compact(index: C) -> C:
    """`index` in one segment."""
    if len(index.segments) < 2 and index.live is None:
        return index
    return replace(index, segments=(compacted(index.segments),) if len(index) else ())


def compacted(segments: Sequence[Segment]) -> Segment:
    """The rows of segments that are not deleted, as one in memory."""
    kept = [segment for segment in segments if segment.live_count]
    if len(kept) == 1 and not len(kept[0].deleted):
        return replace(kept[0], files={})
    return join(kept, dropping=True)


def are_many(deleted: int, segments: Sequence[Segment]) -> bool:
    """Whether so many deleted rows of these segments are worth that all rows behind them move."""
    return deleted >= max(FEWEST_DROPPED, sum(map(len, segments)) / DROPPED)


def _settled(segments: list[Segment]) -> tuple[Segment, ...]:
    """Unsaved segments merged while the last is as long as the one before: a thousand small adds leave ten.

    Those of them of which half is deleted lose these rows, once there are many.
    """
    mostly = [not s.saved and 2 * len(s.deleted) >= len(s) > 0 for s in segments]
    gone = sum(len(s.deleted) for s, dropped in zip(segments, mostly, strict=True) if dropped)
    if are_many(gone, segments):
        segments = [
            compacted([s]) if dropped else s
            for s, dropped in zip(segments, mostly, strict=True)
            if s.live_count or not dropped
        ]
    while len(segments) > 1:
        before, last = segments[-2:]
        if before.saved or len(before) > len(last) or len(before) + len(last) > MERGED_ROWS:
            break
        segments[-2:] = [join([before, last])]
    return tuple(segments)


def _check_alike(index: Contents, other: Contents) -> None:
    """Raise InvalidArgument where the vectors or ids of `other` are not such as `index` holds."""
    mine, theirs = index.header, other.header
    for name, dims in (
        ("coarse", (mine.coarse_dim, theirs.coarse_dim)),
        ("fine", (mine.fine_dim, theirs.fine_dim)),
    ):
        if dims[0] != dims[1]:
            raise InvalidArgument(
                name,
                expected=f"vectors of {dims[0]} dims, as the index has",
                got=f"{dims[1]} dims",
                remedy="Encode the new items with the encoder that made the index.",
            )
    for name, dtypes in (
        ("coarse", (mine.coarse_dtype, theirs.coarse_dtype)),
        ("fine", (mine.fine_dtype, theirs.fine_dtype)),
    ):
        if dtypes[0] != dtypes[1]:
            raise InvalidArgument(
                name,
                expected=f"{dtypes[0]}, as the index has",
                got=dtypes[1],
                remedy="Convert the vectors, or use Retriever.add, which does.",
            )
    kinds = [part.holds_strings for part in (index, other)]
    if None not in kinds and kinds[0] != kinds[1]:
        words = ["strings" if kind else "integers" for kind in kinds]
        raise InvalidArgument(
            "ids",
            expected=words[0],
            got=words[1],
            remedy="An index holds ids of one kind: pass ids=.",
        )
