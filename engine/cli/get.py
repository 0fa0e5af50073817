"""`get`: the metadata of items."""

from engine.cli import options
from engine.cli.items import Ids, items_at, typed_ids
from engine.cli.output import show
from engine.system.terminal import visible


def get(index: options.Index, ids: Ids = None, as_json: options.Json = False) -> None:
    """The metadata of items, by their ids."""
    from engine.index import Index

    opened = Index.open(index)
    items = items_at(opened, opened.rows_of(typed_ids(opened, ids or [])).tolist())
    lines = []
    for item in items:
        said = (item["metadata"] or {}).items()
        lines += [visible(item["id"]), *(f"  {visible(n)}: {visible(v)}" for n, v in said)]
    show({"items": items}, as_json, "\n".join(lines))
