"""How far a build has come: a small file beside the index, there only while the build is not finished.

An index and this file cannot be replaced in one step, so the file is written first and says both where the build
stands with the index as it is and where it will with the segment about to be saved: whichever number of items
the index turns out to hold tells which of the two is true.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Reached:
    """Where a build stands.

    items: what the index holds then.
    source, offset: the number of the source, and how many of its records are done.
    indexed, held, skipped: how many records were added, were there before, were left out.
    listed: bytes of the list of what was left out.
    kinds: of metadata columns, see `kinds.Kinds`; lost: how many of their values did not fit.
    noted: of how many of the records added something is to be said, by what that is.
    """

    items: int
    source: int = 0
    offset: int = 0
    indexed: int = 0
    held: int = 0
    skipped: int = 0
    listed: int = 0
    kinds: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)


@dataclass
class State:
    """The file.

    sources: path, count and stamp of each, as the build found them.
    base: how many items the index held before the build.
    reached: where the build stands with the last published index, and with the one being published.
    """

    file: Path
    sources: list[list[Any]]
    base: int
    reached: list[Reached]

    @classmethod
    def resume(cls, file: Path, sources: list[list[Any]], items: int) -> "State | None":
        """The state in `file` if it is that of these sources, unchanged, and of an index of `items` items."""
        try:
            stored = json.loads(file.read_bytes())
            if (stored["version"], stored["sources"]) != (VERSION, sources):
                return None
            reached = [Reached(**then) for then in stored["reached"]]
            state = cls(file, sources, int(stored["base"]), reached)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        fitting = [then for then in reached if then.items == items]
        return replace(state, reached=fitting[-1:]) if fitting else None

    def publish(self, then: Reached) -> None:
        """To be called before the index that `then` describes is saved."""
        self.reached = [self.reached[-1], then]
        stored = {
            "version": VERSION,
            "sources": self.sources,
            "base": self.base,
            "reached": [asdict(then) for then in self.reached],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_name(f"{self.file.name}.draft")
        draft.unlink(missing_ok=True)  # or what somebody linked there would be written to
        with draft.open("x", encoding="utf-8") as stream:
            json.dump(stored, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self.file)

    def finish(self) -> None:
        """The build is complete: nothing is left to go on with."""
        self.file.unlink(missing_ok=True)
