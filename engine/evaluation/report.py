"""`Report`: the figures of an evaluation, as plain values for JSON and as Markdown."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from engine.evaluation.recall import CUTOFFS, DIRECTIONS, Recalls

Source = Literal["head", "pca", "prefix"]  # where coarse vectors come from
ARROWS = {"text_to_image": "t→i", "image_to_text": "i→t"}


class Way(NamedTuple):
    """One way of searching.

    dim: of the vectors that all items are ranked by. candidates: None unless the search has two stages.
    """

    search: Literal["fine", "two_stage", "coarse"]
    source: Source | None
    dim: int
    candidates: int | None

    @property
    def name(self) -> str:
        if self.source is None:
            return f"fine, all items ({self.dim}-d)"
        if self.candidates is not None:
            return f"{source_name(self.source, self.dim)}, then fine over {self.candidates}"
        if self.source == "prefix":
            return f"first {self.dim} dims alone"
        return f"{_SHORT[self.source]} alone ({self.dim}-d)"


_SHORT = {"head": "coarse", "pca": "PCA", "prefix": "first"}


def source_name(source: Source, dim: int) -> str:
    """Such as "coarse 32-d", "PCA 16-d", "first 16 dims"."""
    return f"first {dim} dims" if source == "prefix" else f"{_SHORT[source]} {dim}-d"


@dataclass(frozen=True)
class Report:
    """One encoder on one pool: recalls by way of searching.

    coarse_dim: of the encoder's own coarse vectors, or of those that an index would learn.
    dims: those of the baselines. depth: how many places of each ranking were looked at.
    """

    pictures: int
    captions: int
    asking_pictures: int
    asking_captions: int
    folds: int
    coarse_dim: int
    fine_dim: int
    candidates: list[int]
    dims: list[int]
    depth: int
    recalls: dict[Way, Recalls]

    @property
    def title(self) -> str:
        """What was searched and who asked, in a line."""
        searched = f"{self.pictures:,} pictures, {self.captions:,} captions"
        if self.asking_pictures < self.pictures:
            searched += f"; {self.asking_pictures:,} and {self.asking_captions:,} of them ask"
        return searched if self.folds == 1 else f"{searched}; mean over {self.folds} folds"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; each way of searching under its name."""
        plain = {name: value for name, value in vars(self).items() if name != "recalls"}
        ways = {way.name: way._asdict() | asdict(recalls) for way, recalls in self.recalls.items()}
        return {**plain, "recalls": ways}

    def to_markdown(self) -> str:
        """A table with a row each way of searching; where dims were tried, tables of R@1 by dims and candidates."""
        if not self.dims:
            return self._ways_table(list(self.recalls))
        whole = [way for way in self.recalls if way.search == "fine"]
        grids = [
            f"{ARROWS[direction]} R@1 by coarse dims and candidates:\n\n{self._grid(direction)}"
            for direction in DIRECTIONS
        ]
        return "\n".join([self._ways_table(whole), *grids])

    def rows(self) -> list[tuple[Source, int]]:
        """The coarse vectors that were tried, in order."""
        pairs = [(way.source, way.dim) for way in self.recalls if way.source is not None]
        return list(dict.fromkeys(pairs))

    def two_stage(self, source: Source, dim: int) -> list[Recalls]:
        """Coarse alone, then with each count of candidates."""
        staged = [Way("two_stage", source, dim, count) for count in self.candidates]
        return [self.recalls[way] for way in (Way("coarse", source, dim, None), *staged)]

    def _ways_table(self, ways: list[Way]) -> str:
        cutoffs = [f"{arrow} R@{k}" for arrow in ARROWS.values() for k in CUTOFFS]
        medians = [f"median rank {arrow}" for arrow in ARROWS.values()]
        lines = [["search", *cutoffs, "AR", "AR, 95 %", *medians]]
        for way in ways:
            found = self.recalls[way]
            low, high = found.intervals["average"]
            percent = [*found.text_to_image.values(), *found.image_to_text.values(), found.average]
            lines.append(
                [
                    way.name,
                    *(f"{value:.1f}" for value in percent),
                    f"{low:.1f} to {high:.1f}",
                    *(self._place(rank) for rank in found.median_rank.values()),
                ]
            )
        return _table(lines)

    def _grid(self, direction: str) -> str:
        lines = [["", "alone", *(f"{count} candidates" for count in self.candidates)]]
        for source, dim in self.rows():
            found = [getattr(recalls, direction) for recalls in self.two_stage(source, dim)]
            lines.append(
                [source_name(source, dim), *(f"{recalls['R@1']:.1f}" for recalls in found)]
            )
        return _table(lines)

    def _place(self, rank: float | None) -> str:
        return f"> {self.depth}" if rank is None else f"{rank:g}"


def _table(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
