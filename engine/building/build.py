"""From sources to an index on disk, a segment at a time, going on where an interrupted build stopped."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from engine.building.blocks import Block, IdKind, Skip, at_rows, chosen, normalized
from engine.building.built import Built
from engine.building.encoding import encode_records, workers
from engine.building.gathered import Gathered
from engine.building.kinds import Kinds, kinds_in
from engine.building.naming import Named, Names, is_nameless
from engine.building.sources import (
    Pictures,
    Source,
    Survey,
    Vectors,
    check_dims,
    id_kind,
    open_sources,
    surveyed,
)
from engine.building.state import Reached, State
from engine.checks import check_count, check_flag, check_list, check_one_of, check_path
from engine.coarse.reduction import SETTLED
from engine.coarse.rounding import CoarseDtype
from engine.embeddings import Embeddings
from engine.encoders import CHUNK, Encoder
from engine.encoders.remembered import open_named, open_remembered
from engine.errors import DatasetError, InvalidArgument, storing
from engine.index import Id, Index, WriterLock
from engine.index.directory import check_place
from engine.index.manifest import MANIFEST
from engine.index.saving import locked
from engine.progress import progress
from engine.reading.records import Fault, Record, mended
from engine.retriever import Retriever
from engine.system.files import open_own

SEGMENT = 65_536
SAVE_SECONDS = 60.0  # slow encoders save more often


def build_index(
    paths: Sequence[str | Path],
    output: Path,
    checkpoint: str | Path | Encoder | None = None,
    *,
    default: str | Path | None = None,
    normalize: bool = False,
    coarse_dtype: CoarseDtype | None = None,
    segment: int = SEGMENT,
    exclude: Sequence[str] = (),
) -> Built:
    """Index what `paths` hold, as `sources.open_sources` reads them, into the directory `output`.

    What `output` holds already stays as it is. The index is saved after every `segment` records or a minute; a
    build that was interrupted, however, goes on from there when called again with the same paths, and ends
    with the index that an undisturbed one would have made. What cannot be read is listed in
    `OUTPUT.skipped.jsonl`; how far the build has come is in `OUTPUT.build.json` until it is complete.

    Args:
        checkpoint: what encodes pictures: an encoder, or a checkpoint or export directory. None = the one that the
            index remembers, else, for pictures, `default`. Vectors need none; with one, text can be searched for.
        normalize: scale given vectors to unit length.
        coarse_dtype: of a new index; None = that of given coarse vectors, else float32.
        segment: where the index has to learn its reduction, or a scale for int8, the first one is of at least 4,096
            records. Given vectors are saved 8,192 at a time at least.
        exclude: patterns as shells have them, of names or paths in folders: pictures and folders to pass over.

    Memory: the coarse vectors, one segment of the rest, and what `encoding` says.
    Raises DatasetError where nothing at all can be indexed, and EngineErrors of what it uses.
    """
    output = check_path("output", output)
    listed = check_list("paths", paths, expected="a list of paths")
    given = [check_path(f"paths[{place}]", path) for place, path in enumerate(listed)]
    segment = check_count("segment", segment)
    normalize = check_flag("normalize", normalize)
    excluded = tuple(check_list("exclude", exclude, expected="a list of patterns"))
    for pattern in excluded:
        if not isinstance(pattern, str):
            raise InvalidArgument(
                "exclude",
                expected="patterns as text",
                got=repr(pattern),
                remedy="For example: exclude=['drafts', '*_small.*'].",
            )
    check_place(output)
    # Locked before the first look: two builds cannot both find nothing.
    with storing(output), locked(output.absolute()) as lock:
        known = Index.open(output) if (output / MANIFEST).exists() else None
        _check_coarse_dtype(coarse_dtype, known)
        opened = [surveyed(source) for source in open_sources(given, excluded)]
        encoder = _encoder(checkpoint, known, default, [source for source, _ in opened])
        check_dims([source for source, _ in opened], encoder)
        return _Build(opened, output, known, encoder, normalize, coarse_dtype, segment, lock).run()


def index_folder(folder: Path, encoder: Encoder) -> Retriever:
    """A retriever, in memory, over every picture below `folder`, or those of its captions file.

    ids are paths relative to the folder, captions and the file's other columns metadata. Raises DatasetError
    for the first picture that cannot be read.
    """
    found = [surveyed(source) for source in open_sources([folder])]
    total = sum(survey.count for _, survey in found)
    retriever = Retriever.from_pretrained(encoder)
    gathered, kinds = Gathered(), Kinds({}, {})
    with workers() as pool, progress(f"encoding {folder.name}", total) as advance:
        for source, _ in found:
            for block in _blocks(source, 0, 0, encoder, pool, lambda _, ids: [False] * len(ids)):
                if block.skipped:
                    raise DatasetError(
                        block.skipped[0].place,
                        expected="a record that can be used",
                        got=block.skipped[0].why,
                        remedy="Mend it, or take it out.",
                    )
                gathered.take(block, source, None, kinds)
                advance(block.taken)
    metadata = gathered.metadata if any(gathered.metadata) else None
    retriever.add(embeddings=gathered.vectors(), ids=gathered.ids, metadata=metadata)
    return retriever


class _Build:
    """One run of `build_index`."""

    def __init__(
        self,
        sources: list[tuple[Source, Survey]],
        output: Path,
        known: Index | None,
        encoder: Encoder | None,
        normalize: bool,
        coarse_dtype: CoarseDtype | None,
        segment: int,
        lock: WriterLock,
    ) -> None:
        self.lock = lock
        self.segment, self.at_most = segment, min(segment, CHUNK)
        self.sources, self.output = sources, output
        self.encoder, self.normalize, self.coarse_dtype = encoder, normalize, coarse_dtype
        self.retriever: Retriever | None = None
        if known is not None:
            self.retriever = self._reopened()
        elif encoder is not None:
            dtype = coarse_dtype or "float32"
            self.retriever = self._writing(Retriever.from_pretrained(encoder, coarse_dtype=dtype))
        self.listing = output.with_name(f"{output.name}.skipped.jsonl")
        items = 0 if known is None else len(known)
        file = output.with_name(f"{output.name}.build.json")
        stamps = [[str(source.path), survey.count, survey.stamp] for source, survey in sources]
        resumed = State.resume(file, stamps, items)
        self.state = resumed or State(file, stamps, items, [Reached(items)])
        self.base = self.state.base
        self.reached = self.state.reached[-1]
        self.ids_are = id_kind([source for source, _ in sources], known)
        self.kinds = Kinds({**self.reached.kinds, **kinds_in(known)}, self.reached.lost)
        self.gathered, self.names = Gathered(), Names(output)
        self.first_why = ""

    def run(self) -> Built:
        """Every source, from where the build stands."""
        resumed = self._done()
        if self.base and not resumed:
            self._refuse_nameless()
        total = sum(survey.count for _, survey in self.sources)
        with (
            workers() as pool,
            progress(f"indexing into {self.output.name}", total, resumed) as advance,
        ):
            saved, due = time.monotonic(), self._due()
            for block in self._all_blocks(pool):
                source, _ = self.sources[self.gathered.at[0]]
                self.gathered.take(block, source, self.ids_are, self.kinds)
                advance(block.taken)
                late = self._settled() and time.monotonic() - saved > SAVE_SECONDS
                if self.gathered.taken >= due or late:
                    self._save()
                    saved, due = time.monotonic(), self._due()
            self._save()
        return self._report(resumed)

    def _all_blocks(self, pool: ThreadPoolExecutor) -> Iterator[Block]:
        """Of all sources; `gathered.at` says where each ends."""
        first = self.reached.source
        rows = sum(survey.count for _, survey in self.sources[:first])
        for number in range(first, len(self.sources)):
            source, survey = self.sources[number]
            offset = self.reached.offset if number == first else 0
            blocks = _blocks(
                source, offset, rows, self.encoder, pool, self._held, self.at_most, self.ids_are
            )
            for block in blocks:
                offset += block.taken
                self.gathered.at = (number, offset)
                yield replace(block, vectors=self._scaled(source, block.vectors))
            self.gathered.at = (number + 1, 0)
            rows += survey.count

    def _scaled(self, source: Source, vectors: Embeddings | None) -> Embeddings | None:
        given = isinstance(source, Vectors) and self.normalize
        return normalized(vectors) if vectors is not None and given else vectors

    def _save(self) -> None:
        """Add what was gathered, and publish it with the list of what was left out."""
        gathered, self.gathered = self.gathered, Gathered()
        self.gathered.at = gathered.at
        if not gathered.taken:
            return
        named, vectors, metadata = self._named(gathered)
        if ids := named.ids:
            self._add(ids, vectors, metadata)
        self._list(gathered.skipped)
        source, offset = gathered.at
        self.reached = Reached(
            items=0 if self.retriever is None else len(self.retriever),
            source=source,
            offset=offset,
            indexed=self.reached.indexed + len(ids),
            held=self.reached.held + gathered.held + len(named.held),
            skipped=self.reached.skipped + len(gathered.skipped),
            listed=self.listing.stat().st_size if self.listing.exists() else 0,
            kinds=dict(self.kinds.known),
            lost=dict(self.kinds.lost),
            noted=dict(gathered.remarks + Counter(self.reached.noted)),
        )
        self.state.publish(self.reached)
        if ids:
            retriever = self._filled()
            fresh = retriever.index.path is None
            retriever.save(self.output)
            if fresh:  # from here on what was saved need not be in memory
                self.retriever = self._reopened()
        if self.retriever is not None and self.retriever.index.path is not None:
            self.names.note(gathered, named, self.retriever.index)

    def _add(self, ids: list[Id], vectors: Embeddings, metadata: list[Any]) -> None:
        described = metadata if any(metadata) else None
        if self.retriever is None:
            self.retriever = self._writing(
                Retriever.from_embeddings(
                    vectors.fine,
                    vectors.coarse,
                    ids=ids,
                    metadata=described,
                    coarse_dtype=self.coarse_dtype,
                    normalize=self.normalize,
                )
            )
        else:
            self.retriever.add(embeddings=vectors, ids=ids, metadata=described)

    def _named(self, gathered: Gathered) -> tuple[Named, Embeddings, list[Any]]:
        """What may be added, under which ids; what is there already is noted as held or left out."""
        if not gathered.ids:
            return Named(), Embeddings(None, torch.empty(0, 0)), []
        vectors = gathered.vectors()
        index = None if self.retriever is None else self.retriever.index
        named = self.names.settle(gathered, vectors, index, self.base)
        if len(named.keep) < len(gathered.ids):
            vectors = at_rows(vectors, named.keep)
        return named, vectors, [gathered.metadata[number] for number in named.keep]

    def _list(self, skipped: list[Skip]) -> None:
        """Append to the list; what an interrupted build wrote there and never published is cut off first."""
        if not skipped and not self.listing.exists():
            return
        self.listing.parent.mkdir(parents=True, exist_ok=True)
        with open_own(self.listing) as stream:
            stream.truncate(self.reached.listed)
            for skip in skipped:
                self.first_why = self.first_why or skip.why
                stream.write(json.dumps(asdict(skip)).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _report(self, resumed: int) -> Built:
        reached = self.reached
        if not reached.indexed and not reached.held:
            self.state.finish()
            wanted = "sources of which something can be indexed"
            if not reached.skipped:
                raise Fault(wanted, "no record", "Give another source.").at(self.output)
            left_out = f"none; left out: {reached.skipped:,}, see {self.listing}"
            raise Fault(wanted, left_out, f"The first: {self.first_why}").at(self.output)
        self.state.finish()
        if not reached.skipped:
            self.listing.unlink(missing_ok=True)
        assert self.retriever is not None
        return Built(
            self.retriever.index,
            reached.indexed,
            reached.held,
            reached.skipped,
            self.listing if reached.skipped else None,
            dict(self.kinds.lost),
            resumed,
            dict(reached.noted),
        )

    def _done(self) -> int:
        """How many records are done already."""
        before = self.sources[: self.reached.source]
        return sum(survey.count for _, survey in before) + self.reached.offset

    def _settled(self) -> bool:
        """Whether a segment more or less would make no other vectors."""
        if self.encoder is None:
            return self.retriever is not None
        index = self._filled().index
        if self.encoder.coarse_dim is None:
            return len(index) >= SETTLED
        # The first items decide the scale of int8.
        return index.row_count > 0 or index.header.quantization is None

    def _due(self) -> int:
        """How many records the next segment is of."""
        return self.segment if self._settled() else max(self.segment, SETTLED)

    def _reopened(self) -> Retriever:
        return self._writing(Retriever(self.output, self.encoder, fine_tier="disk"))

    def _writing(self, retriever: Retriever) -> Retriever:
        retriever.write_under(self.lock)
        return retriever

    def _filled(self) -> Retriever:
        assert self.retriever is not None
        return self.retriever

    def _held(self, source: Source, ids: Sequence[Id]) -> list[bool]:
        if not self.base:
            return [False] * len(ids)
        return self.names.held(source, self._cast(ids), self._filled().index, self.base)

    def _cast(self, ids: Sequence[Id]) -> list[Id]:
        return [str(id) if self.ids_are == "str" else id for id in ids]

    def _refuse_nameless(self) -> None:
        """Rows without names cannot be told from those that the index holds."""
        for source, _ in self.sources:
            if is_nameless(source):
                raise InvalidArgument(
                    "sources",
                    expected="vectors with ids, to add them to an index that holds items",
                    got=f"{source.path}, which has none",
                    remedy="Name a new index, or add them in Python: Retriever(INDEX).add(embeddings=…).",
                )


def _blocks(
    source: Source,
    start: int,
    first: int,
    encoder: Encoder | None,
    pool: ThreadPoolExecutor,
    held: Callable[[Source, Sequence[Id]], list[bool]],
    at_most: int = CHUNK,
    ids_are: IdKind = "str",
) -> Iterator[Block]:
    mine = partial(held, source)
    if isinstance(source, Pictures):
        records = (_storable(record, ids_are) for record in source.records(start))
        return encode_records(records, encoder, pool, mine, at_most)
    return (_without_held(block, mine) for block in source.blocks(start, first))


def _storable(record: Record, ids_are: IdKind) -> Record:
    """`record` with an id of this kind, or what says that nothing can store its own."""
    id = record.name  # a table's may be anything
    if ids_are == "int":
        if type(id) is int and -(1 << 63) <= id < 1 << 63:
            return record
        got = str(id) if type(id) is int else "none"  # named by its row, then
        fault = record.fault or Fault("an integer of 64 bits as id", got, "Change it.")
        return replace(record, name=str(id), picture=None, fault=fault)
    name = str(id)
    if mended(name) == name:
        return replace(record, name=name)
    fault = record.fault or Fault("a name in UTF-8", "other bytes", "Rename it.")
    name = name.encode("utf-8", "backslashreplace").decode()
    return replace(record, name=name, picture=None, fault=fault)


def _without_held(block: Block, held: Callable[[Sequence[Id]], list[bool]]) -> Block:
    known = held(block.ids)
    if not any(known):
        return block
    fresh = chosen(block, [row for row, there in enumerate(known) if not there])
    return replace(fresh, held=sum(known))


def _check_coarse_dtype(wanted: CoarseDtype | None, known: Index | None) -> None:
    if wanted is None:
        return
    check_one_of("coarse_dtype", wanted, get_args(CoarseDtype))
    if known is not None and known.header.coarse_dtype != wanted:
        raise InvalidArgument(
            "coarse_dtype",
            expected=f"{known.header.coarse_dtype}, as the index has",
            got=wanted,
            remedy="Leave it out, or name a new index.",
        )


def _encoder(
    checkpoint: str | Path | Encoder | None,
    known: Index | None,
    default: str | Path | None,
    sources: Sequence[Source],
) -> Encoder | None:
    expected = None if known is None else known.checkpoint
    if checkpoint is None:
        if known is not None and expected is not None:
            return open_remembered(expected, known.path)
        if any(isinstance(source, Pictures) for source in sources):
            checkpoint = default
            if checkpoint is None:
                raise InvalidArgument(
                    "checkpoint",
                    expected="what encodes the pictures",
                    got="none",
                    remedy="Give a checkpoint or export directory, or a Hugging Face id (--checkpoint).",
                )
    return open_named(checkpoint, expected) if isinstance(checkpoint, str | Path) else checkpoint
