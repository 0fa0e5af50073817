"""How many candidates the coarse stage keeps."""

from collections.abc import Sequence
from typing import Any

from engine.checks import check_count, check_counts
from engine.errors import InvalidArgument
from engine.index import Index

FEWEST_CANDIDATES = 128


def candidates_for(k: int, asked_for: Sequence[int | None], index: Index) -> int:
    """For the best k of `index`: the first number asked for that is not None; else as many as the index is
    calibrated for, unless more than a tenth of them changed since; else max(128, 4 * k). Never more than there are
    rows.

    InvalidArgument where fewer than k are asked for.
    """
    rows = max(1, index.row_count)
    for asked in asked_for:
        if asked is None:
            continue
        if check_count("candidates", asked) < k:
            raise InvalidArgument(
                "candidates",
                expected=f"at least k ({k})",
                got=str(asked),
                remedy="Keep more candidates, or ask for fewer results.",
            )
        return min(int(asked), rows)
    calibration = index.header.calibration
    if calibration is not None and k <= calibration.k and not calibration.is_stale:
        return min(calibration.candidates, rows)
    return min(max(FEWEST_CANDIDATES, 4 * k), rows)


def check_candidates(candidates: Any, k: int) -> list[int]:
    """The numbers of candidates to try, ascending; those below k are left out."""
    asked = check_counts("candidates", candidates, expected="a list of numbers of candidates")
    kept = sorted({number for number in asked if number >= k})
    if not kept:
        raise InvalidArgument(
            "candidates",
            expected=f"some number of at least k ({k})",
            got=repr(asked),
            remedy="Add one, or ask for fewer results.",
        )
    return kept
