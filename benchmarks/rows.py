"""Results that grow row by row, so that a run cut off goes on, and rows that say where they are from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import about

Row = dict[str, Any]


class Rows:
    """Rows of a JSON file by name, written as they are measured; one of this device, commit and kind stays."""

    def __init__(self, file: Path, quick: bool) -> None:
        self.file, self.quick = file, quick
        self.rows: list[Row] = json.loads(file.read_text())["rows"] if file.is_file() else []

    def measured(self, name: str, measure: Callable[[], Row]) -> Row:
        """The row of this name, measured now unless it was before. What was skipped is tried again."""
        machine = about()
        for row in self.rows:
            known = row["name"] == name and row["quick"] == self.quick and "skipped" not in row
            if known and _identity(row["machine"]) == _identity(machine):
                return row
        found = {"name": name, "quick": self.quick, "machine": machine} | measure()
        self.rows = [row for row in self.rows if row["name"] != name] + [found]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        draft.replace(self.file)
        print(json.dumps({key: found[key] for key in found if key != "machine"}), flush=True)
        return found


def _identity(machine: Row) -> list[Any]:
    return [machine[key] for key in ("device", "threads", "commit", "dirty", "versions")]


def origin(machine: Row) -> str:
    """On what, and at which commit."""
    changed = " with changes" if machine["dirty"] else ""
    return f"{machine['device']}, {machine['threads']} threads, commit {machine['commit']}{changed}"


def origins(rows: Sequence[Row]) -> str:
    """On what, and at which commit; says so where that is not one."""
    found = dict.fromkeys(origin(row["machine"]) for row in rows)
    quick = " A quick run: its figures say little." if any(row["quick"] for row in rows) else ""
    start = "Measured on" if len(found) == 1 else "Rows differ in device or commit. Measured on"
    return f"{start} {'; '.join(found)}.{quick}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))
