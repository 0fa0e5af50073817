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
from engine.building.blocks import Block, Skip
from engine.embeddings import Embeddings
from engine.encoders import CHUNK, Encoder
from engine.errors import ImageError
from engine.index import Id
from engine.reading.records import Record
from engine.system.files import Member

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_BYTES = 1 << 26


@dataclass
class _Coming:
    """A record on its way: `image` is opened, then decoded; `why` says why not, `remark` what of it is not read.
    `held`: the index has it."""

    record: Record
    image: "Image | None" = None
    why: str = ""
    held: bool = False
    remark: str | None = None


def encode_records(
    records: Iterator[Record],
    encoder: Encoder | None,
    pool: ThreadPoolExecutor,
    held: Callable[[Sequence[Id]], list[bool]],
    at_most: int = CHUNK,
) -> Iterator[Block]:
    """A block for each batch of records, `at_most` so many. Which records make a batch depends on them alone, so
    that an interrupted build encodes the same batches when it goes on."""
    block, fine, coarse = Block(), [], []
    for group, ends in _ahead(_decoding(batches(records, at_most), pool, held)):
        pictures = []
        for coming, decoded in group:
            image = decoded.result() if decoded is not None else None
            block.taken += 1
            record = coming.record
            if coming.held:
                block.held += 1
            elif image is None:
                block.skipped.append(Skip(record.name, record.place, coming.why))
            else:
                pictures.append(image)
                block.ids.append(record.name)
                block.places.append(record.place)
                block.remarks += [said for said in (coming.remark, _flaw(record)) if said]
                block.metadata.append(dict(record.values))
        if pictures:
            assert encoder is not None  # `build_index` sees to it
            vectors = encoder.encode_images(pictures)
            fine.append(vectors.fine)
            if vectors.coarse is not None:
                coarse.append(vectors.coarse)
        if ends:
            if fine:
                block.vectors = Embeddings(torch.cat(coarse) if coarse else None, torch.cat(fine))
            yield block
            block, fine, coarse = Block(), [], []


def workers() -> ThreadPoolExecutor:
    """A thread for each core that this process may use."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


def batches(records: Iterator[Record], at_most: int) -> Iterator[list[Record]]:
    """At most so many records and, unless it is a single one, `BATCH_BYTES` of encoded pictures."""
    batch: list[Record] = []
    total = 0
    for record in records:
        size = _size(record)
        if batch and (len(batch) == at_most or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(record)
        total += size
    if batch:
        yield batch


_Decoding = tuple[list[tuple[_Coming, "Future[Image | None] | None"]], bool]


def _decoding(
    batches: Iterator[list[Record]],
    pool: ThreadPoolExecutor,
    held: Callable[[Sequence[Id]], list[bool]],
) -> Iterator[_Decoding]:
    """Groups of records whose decoding has begun, and whether the group is the last of its batch."""
    for batch in batches:
        known = held([record.name for record in batch])
        coming = [
            _Coming(record, why="" if record.fault is None else str(record.fault), held=there)
            for record, there in zip(batch, known, strict=True)
        ]
        list(pool.map(_open, coming))
        groups = list(_groups(coming))
        for number, group in enumerate(groups, start=1):
            decoding = [
                (each, None if each.image is None else pool.submit(_decode, each)) for each in group
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


def _groups(records: list[_Coming]) -> Iterator[list[_Coming]]:
    """Records in order, in groups of at most `MAX_PIXELS` together."""
    group: list[_Coming] = []
    total = 0
    for each in records:
        pixels = 0 if each.image is None else each.image.width * each.image.height
        if group and total + pixels > images.MAX_PIXELS:
            yield group
            group, total = [], 0
        group.append(each)
        total += pixels
    yield group


def _open(coming: _Coming) -> None:
    if coming.held or coming.why:
        return
    assert coming.record.picture is not None  # or there would be a fault
    try:
        coming.image = images.open_image(coming.record.picture)
        coming.remark = images.remark(coming.image)
    except ImageError as error:
        coming.why = str(error)


def _decode(coming: _Coming) -> "Image | None":
    picture: Any = coming.record.picture
    opened, coming.image = coming.image, None  # what is decoded replaces what was read
    assert opened is not None
    try:
        return images.decode_image(opened, picture)
    except ImageError as error:
        coming.why = str(error)
        return None


def _flaw(record: Record) -> str | None:
    return None if record.flaw is None else f"expected {record.flaw.expected}"


def _size(record: Record) -> int:
    picture = record.picture
    if isinstance(picture, bytes):
        return len(picture)
    if isinstance(picture, Member):
        return picture.size
    try:
        return picture.stat().st_size if isinstance(picture, Path) else 0
    except (OSError, ValueError):  # opening it will say why
        return 0
