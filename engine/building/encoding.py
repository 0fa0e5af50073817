"""Pictures to vectors: opened and decoded by threads, encoded a batch at a time, in order.

What is in memory at once, whatever the source: of encoded pictures one batch, at most `BATCH_BYTES` (or one file);
of decoded ones two groups, each of at most `engine.images.MAX_PIXELS` together, one being decoded while the
other is encoded. Pillow lets other threads run while it decodes.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine import images
from engine.building.items import Item, Part, Skip
from engine.dataset import Member
from engine.embeddings import Embeddings
from engine.encoders import CHUNK, Encoder
from engine.errors import ImageError
from engine.index import Id

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_BYTES = 1 << 26


@dataclass
class _Entry:
    """An item on its way: `image` is opened, then decoded; `why` says why not. `held`: the index has it."""

    item: Item
    image: "Image | None" = None
    why: str = ""
    held: bool = False


def encode_items(
    items: Iterator[Item],
    encoder: Encoder | None,
    pool: ThreadPoolExecutor,
    held: Callable[[Sequence[Id]], list[bool]],
    at_most: int = CHUNK,
) -> Iterator[Part]:
    """A part for each batch of items, `at_most` so many. Which items make a batch depends on them alone, so that
    an interrupted build encodes the same batches when it goes on."""
    part, fine, coarse = Part(), [], []
    for entries, ends in _ahead(_decoding(batches(items, at_most), pool, held)):
        pictures = []
        for entry, decoded in entries:
            image = decoded.result() if decoded is not None else None
            part.taken += 1
            if entry.held:
                part.held += 1
            elif image is None:
                part.skipped.append(Skip(entry.item.id, entry.item.place, entry.why))
            else:
                pictures.append(image)
                part.ids.append(entry.item.id)
                part.places.append(entry.item.place)
                part.metadata.append(entry.item.metadata)
        if pictures:
            assert encoder is not None  # `build_index` sees to it
            vectors = encoder.encode_images(pictures)
            fine.append(vectors.fine)
            if vectors.coarse is not None:
                coarse.append(vectors.coarse)
        if ends:
            if fine:
                part.vectors = Embeddings(torch.cat(coarse) if coarse else None, torch.cat(fine))
            yield part
            part, fine, coarse = Part(), [], []


def workers() -> ThreadPoolExecutor:
    """A thread for each core that this process may use."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


def batches(items: Iterator[Item], at_most: int) -> Iterator[list[Item]]:
    """At most so many items and, unless it is a single one, `BATCH_BYTES` of encoded pictures."""
    batch: list[Item] = []
    total = 0
    for item in items:
        size = _size(item)
        if batch and (len(batch) == at_most or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


_Decoding = tuple[list[tuple[_Entry, "Future[Image | None] | None"]], bool]


def _decoding(
    batches: Iterator[list[Item]],
    pool: ThreadPoolExecutor,
    held: Callable[[Sequence[Id]], list[bool]],
) -> Iterator[_Decoding]:
    """Groups of entries whose decoding has begun, and whether the group is the last of its batch."""
    for batch in batches:
        known = held([item.id for item in batch])
        entries = [
            _Entry(item, why=item.fault, held=there)
            for item, there in zip(batch, known, strict=True)
        ]
        list(pool.map(_open, entries))
        groups = list(_groups(entries))
        for number, group in enumerate(groups, start=1):
            decoding = [
                (entry, None if entry.image is None else pool.submit(_decode, entry))
                for entry in group
            ]
            yield decoding, number == len(groups)


def _ahead(groups: Iterator[_Decoding]) -> Iterator[_Decoding]:
    """The same, one step late: the next group is being decoded while one is used."""
    waiting: deque[_Decoding] = deque()
    for group in groups:
        waiting.append(group)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _groups(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    """Entries in order, in groups of at most `MAX_PIXELS` together."""
    group: list[_Entry] = []
    total = 0
    for entry in entries:
        pixels = 0 if entry.image is None else entry.image.width * entry.image.height
        if group and total + pixels > images.MAX_PIXELS:
            yield group
            group, total = [], 0
        group.append(entry)
        total += pixels
    yield group


def _open(entry: _Entry) -> None:
    if entry.held or entry.why:
        return
    assert entry.item.picture is not None  # or there would be a fault
    try:
        entry.image = images.open_image(entry.item.picture)
    except ImageError as error:
        entry.why = str(error)


def _decode(entry: _Entry) -> "Image | None":
    picture: Any = entry.item.picture
    opened, entry.image = entry.image, None  # what is decoded replaces what was read
    assert opened is not None
    try:
        return images.decode_image(opened, picture)
    except ImageError as error:
        entry.why = str(error)
        return None


def _size(item: Item) -> int:
    picture = item.picture
    if isinstance(picture, bytes):
        return len(picture)
    if isinstance(picture, Member):
        return picture.size
    try:
        return picture.stat().st_size if isinstance(picture, Path) else 0
    except (OSError, ValueError):  # opening it will say why
        return 0
