"""What a build has listed as left out."""

import json
from typing import Any

from engine.building import Built


def skipped_of(report: Built) -> list[dict[str, Any]]:
    assert report.listed is not None
    lines = [json.loads(line) for line in report.listed.read_text().splitlines()]
    assert len(lines) == report.skipped
    return lines
