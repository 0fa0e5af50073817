"""`Built`: what a build did."""

from dataclasses import dataclass
from pathlib import Path

from engine.building.kinds import BEYOND
from engine.index import Index


@dataclass(frozen=True)
class Built:
    """What a build did.

    index: as it is on disk now.
    indexed, held, skipped: records that were added, that the index held before, and that were left out.
    listed: the file that says of each one left out where it is and why; None where there is none.
    lost: metadata values that did not fit their column, by column.
    resumed: records that an interrupted build had done before.
    noted: of how many of the records added something was not read, by what that is.
    """

    index: Index
    indexed: int
    held: int
    skipped: int
    listed: Path | None
    lost: dict[str, int]
    resumed: int
    noted: dict[str, int]

    def remarks(self) -> list[str]:
        """What is worth saying beside the number of items indexed, a line each."""
        lines = []
        if self.resumed:
            lines.append(f"went on after {self.resumed:,} records of an interrupted run")
        if self.held:
            lines.append(f"{self.held:,} records were in the index before")
        if self.skipped:
            lines.append(f"{self.skipped:,} records left out, see {self.listed}")
        lines += [f"{count:,} of those added: {said}" for said, count in self.noted.items()]
        lines += [
            f"{count:,} values of the metadata column {name!r} left out: of another kind than the first"
            if name != BEYOND
            else f"{count:,} values of metadata left out: {BEYOND}"
            for name, count in self.lost.items()
        ]
        return lines
