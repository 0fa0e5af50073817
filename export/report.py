"""`parity.md`: the parity report to read."""

from export.parity import GATED, OVERLAPS, RECALLS, Parity, Step


def markdown(parity: Parity) -> str:
    """A verdict, then a table for vectors and one for search."""
    lines = ["# Parity", "", _verdict(parity), ""]
    lines += [
        f"{parity.pairs} pictures and their captions from {parity.source}, each step beside torch fp32. Expected: "
        f"cosine at least {parity.gate.min_cosine}, overlap@{GATED} at least {parity.gate.min_overlap}.",
        "",
        *_table(["step", "vectors", "cosine min", "1st percentile", "mean"], _cosine_rows(parity)),
        "",
        *_table(
            ["step", "search"] + [f"overlap@{k}" for k in OVERLAPS] + [f"ΔR@{k}" for k in RECALLS],
            _search_rows(parity),
        ),
        "",
    ]
    lines += [f"- {step.name}: {text}" for step in parity.steps for text in _remarks(step)]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(parity: Parity) -> str:
    if parity.passed:
        return f"**Passed.** The largest loss of cosine is at: {parity.largest_loss}."
    lost = next(step for step in parity.steps if step.name == parity.lost_at)
    return f"**Failed.** Accuracy was lost at: {lost.name} ({'; '.join(lost.failures)})."


def _remarks(step: Step) -> list[str]:
    return [f"not run here: {step.not_run}"] if step.not_run else [step.note] if step.note else []


def _cosine_rows(parity: Parity) -> list[list[str]]:
    return [
        [step.name, part, *(f"{figures[name]:.6f}" for name in ("min", "p1", "mean"))]
        for step in parity.steps
        for part, figures in step.cosine.items()
    ]


def _search_rows(parity: Parity) -> list[list[str]]:
    return [
        [
            step.name,
            way,
            *(f"{share:.4f}" for share in shares.values()),
            *(f"{change:+.2f}" for change in step.recall_change[way].values()),
        ]
        for step in parity.steps
        for way, shares in step.overlap.items()
    ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
