"""What `python -m engine evaluate` does: from a source of vectors and a data set to a report and its files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.dataset import Example, Skipped, read_dataset
from engine.encoders import open_encoder
from engine.errors import InvalidArgument
from engine.evaluation import plot
from engine.evaluation.pool import Pool, asking_rows, encode_pool
from engine.evaluation.report import Report
from engine.evaluation.run import check_request, evaluate
from engine.evaluation.vector_files import holds_vectors, read_vectors, write_vectors
from engine.reading.records import Fault


@dataclass(frozen=True)
class Request:
    """What to measure on what; the command's help says what each is."""

    source: Path
    dataset: Path
    images: Path | None
    split: str | None
    part: str
    pool: Literal["part", "all"]
    captions: Literal["all", "first"]
    candidates: Sequence[int]
    dims: Sequence[int]
    folds: int
    normalize: bool
    skip: bool
    save_vectors: Path | None

    def measure(self) -> tuple[dict[str, Any], Report]:
        """The figures with what they were taken from, as plain values, and the report."""
        skipped: Skipped | None = [] if self.skip else None
        if self.folds > 1 and self.pool == "all":
            raise InvalidArgument(
                "folds",
                expected="one fold where all of the data set is searched",
                got=str(self.folds),
                remedy="Leave out --folds or --pool all.",
            )
        if holds_vectors(self.source):
            sha256, pool = None, self._given_pool(skipped)
        else:
            if self.normalize:
                raise InvalidArgument(
                    "normalize",
                    expected="given vectors to scale",
                    got=f"{self.source}, whose vectors are unit vectors already",
                    remedy="Leave out --normalize.",
                )
            sha256, pool = self._encoded_pool(skipped)
        if not pool.asking.any():
            fault = Fault(f"pictures of part {self.part!r}", "none", "Name another part.")
            raise fault.at(self.dataset)
        if self.save_vectors is not None:
            write_vectors(pool, self.save_vectors)
        if self.captions == "first":
            pool = pool.first_captions()
        report = evaluate(pool, candidates=self.candidates, dims=self.dims, folds=self.folds)
        facts = {
            "checkpoint_sha256": sha256,
            "dataset": self.dataset.resolve().name,
            "split": self.split,
            "part": self.part,
            "pool": self.pool,
            "asked_with": self.captions,
            "skipped": skipped or [],
        }
        return facts | report.to_dict(), report

    def _read(self, skipped: Skipped | None, *, whole: bool, check_images: bool) -> list[Example]:
        return read_dataset(
            self.dataset,
            self.split,
            None if whole else self.part,
            images=self.images,
            check_images=check_images,
            skipped=skipped,
        )

    def _asking(self, check_images: bool) -> list[Example]:
        """The part that asks; what it leaves out is noted elsewhere already."""
        return self._read([] if self.skip else None, whole=False, check_images=check_images)

    def _given_pool(self, skipped: Skipped | None) -> Pool:
        """Of vectors of the whole data set the part is taken; vectors of the part are taken as they are."""
        everything = self._read(skipped, whole=True, check_images=False)
        asking = self._asking(check_images=False)
        images, texts = read_vectors(self.source, normalize=self.normalize)
        whole = len(images) == len(everything)
        if not whole and (self.pool == "all" or len(images) != len(asking)):
            or_part = "" if self.pool == "all" else f", or each of the {len(asking):,} asked for"
            raise InvalidArgument(
                "image",
                expected=f"a row for each of the {len(everything):,} pictures of {self.dataset}{or_part}",
                got=f"{len(images):,} rows",
                remedy="Give the vectors of this data set, in its order.",
            )
        pool = Pool.of(images, texts, everything if whole else asking)
        rows = asking_rows(everything if whole else asking, asking)
        return pool.asked_by(rows) if self.pool == "all" else pool.take(rows.nonzero()[:, 0])

    def _encoded_pool(self, skipped: Skipped | None) -> tuple[str, Pool]:
        examples = self._read(skipped, whole=self.pool == "all", check_images=True)
        encoder = open_encoder(self.source)
        if not skipped:  # else fewer pictures may be left: known once they are read
            check_request(encoder.fine_dim, len(examples), self.candidates, self.dims, self.folds)
        pool, kept = encode_pool(encoder, examples, skipped)
        if self.pool == "all":
            pool = pool.asked_by(asking_rows(kept, self._asking(check_images=True)))
        return encoder.reference.sha256, pool


def check_outputs(files: Sequence[Path], save_vectors: Path | None = None) -> None:
    """Raise, before the long work, for files that could not be written after it."""
    for file in files:
        _check_output("output", file, (".json", ".md", *plot.FORMATS))
        if file.suffix in plot.FORMATS:
            plot.check_plotting()
    if save_vectors is not None:
        _check_output("save_vectors", save_vectors, (".safetensors",))


def _check_output(name: str, file: Path, suffixes: Sequence[str]) -> None:
    """A file that can be written, with one of these suffixes."""
    if file.suffix not in suffixes:
        raise InvalidArgument(
            name,
            expected=f"a file ending in {' or '.join(suffixes)}",
            got=str(file),
            remedy="The suffix says what to write.",
        )
    if not file.parent.is_dir() or file.is_dir():
        raise InvalidArgument(
            name,
            expected="a file in a folder that is there",
            got=f"{file}, a folder" if file.is_dir() else str(file),
            remedy="Name a file." if file.is_dir() else f"Make {file.parent} first.",
        )


def write_outputs(facts: dict[str, Any], report: Report, files: Sequence[Path]) -> None:
    """The figures as JSON, Markdown or a plot, as the suffix of each file says."""
    for file in files:
        if file.suffix == ".json":
            file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        elif file.suffix == ".md":
            file.write_text(f"{report.title}\n\n{report.to_markdown()}", encoding="utf-8")
        else:
            plot.plot(report, file)


def counts(name: str, listed: str) -> list[int]:
    """Integers of a comma-separated list."""
    try:
        return [int(part) for part in listed.split(",") if part.strip()]
    except ValueError:
        raise InvalidArgument(
            name,
            expected="integers separated by commas",
            got=repr(listed),
            remedy="For example 8,16,32.",
        ) from None
