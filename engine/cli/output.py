"""What commands print: facts as JSON, or as text that a terminal can show."""

from typing import TYPE_CHECKING, Any

import typer

from engine.system.terminal import as_json as json_text
from engine.system.terminal import visible

if TYPE_CHECKING:
    from engine.index import Index


def show(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """`facts` as JSON, or `text` in their place."""
    typer.echo(json_text(facts) if as_json else visible(text, keep="\n"))


def facts_of(index: "Index") -> dict[str, Any]:
    """What an index holds, as plain values."""
    quantization = index.header.quantization
    return {
        "items": len(index),
        "coarse": f"{index.header.coarse_dim} x {index.header.coarse_dtype}",
        "fine": f"{index.header.fine_dim} x {index.header.fine_dtype}",
        "bytes": index.nbytes,
        "segments": len(index.segments),
        "deleted rows": index.row_count - len(index),
        "checkpoint": index.checkpoint.path if index.checkpoint else None,
        **(
            {name: getattr(quantization, name) for name in ("scale", "clipped", "recall")}
            if quantization
            else {}
        ),
        **({"misfits": index.header.misfits} if index.header.misfits else {}),
    }
