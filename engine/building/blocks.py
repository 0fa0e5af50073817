"""`Block`: records of a source that stand together, with their vectors."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch.nn import functional as F

from engine.building.kinds import Metadata
from engine.embeddings import Embeddings
from engine.index import Id

IdKind: TypeAlias = Literal["int", "str"]


@dataclass(frozen=True)
class Skip:
    """A record that was left out: where it is, and why."""

    id: Id
    place: str
    why: str


@dataclass
class Block:
    """The next records of a source: what of them is to be added, and what not.

    taken: how many records these are; each is in `ids`, in `skipped`, or counted in `held`.
    places: where each of `ids` is in the source.
    vectors: one row per id; None where there is no id.
    held: records that the index held before the build began.
    remarks: what is to be said of records that are added, one entry each.
    """

    taken: int = 0
    ids: list[Id] = field(default_factory=list)
    vectors: Embeddings | None = None
    metadata: list[Metadata] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    held: int = 0
    places: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def finite(
    vectors: Embeddings, ids: list[Id], places: list[str], metadata: list[Metadata]
) -> Block:
    """A block of these rows, less those that hold NaN or inf, which it lists."""
    good = vectors.fine.isfinite().all(dim=1)
    if vectors.coarse is not None:
        good &= vectors.coarse.isfinite().all(dim=1)
    block = Block(len(ids), ids, vectors, metadata, places=places)
    if good.all():
        return block
    lost = (~good).nonzero().flatten().tolist()
    block.skipped = [Skip(ids[row], places[row], _NOT_FINITE) for row in lost]
    return chosen(block, good.nonzero().flatten().tolist())


_NOT_FINITE = "expected finite values, got NaN or inf. Make the vector again, or remove it."


def chosen(block: Block, rows: list[int]) -> Block:
    """`block` with these of its rows only."""
    vectors = block.vectors
    if vectors is not None:
        vectors = at_rows(vectors, rows)
    return Block(
        block.taken,
        [block.ids[row] for row in rows],
        vectors,
        [block.metadata[row] for row in rows],
        block.skipped,
        block.held,
        [block.places[row] for row in rows],
    )


def at_rows(vectors: Embeddings, rows: list[int]) -> Embeddings:
    """These rows of both."""
    coarse = vectors.coarse
    return Embeddings(None if coarse is None else coarse[rows], vectors.fine[rows])


def normalized(vectors: Embeddings) -> Embeddings:
    """Both scaled to unit length."""
    coarse = vectors.coarse
    return Embeddings(
        None if coarse is None else F.normalize(coarse.float(), dim=1),
        F.normalize(vectors.fine.float(), dim=1),
    )
