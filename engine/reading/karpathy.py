"""Flickr30k and COCO in JSON: as the literature splits them, and as COCO itself gives its captions.

`dataset_flickr30k.json`, `dataset_coco.json`:

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
                 "sentences": [{"raw": "A man with a red helmet …", …}, …], …}, …], "dataset": "coco"}

`filepath` is COCO's own; Flickr30k has file names only. The splits are Karpathy's (arXiv 1412.2306): 1,000 and
5,000 pictures for test, and COCO's "restval", which is trained on.

`captions_val2017.json`, whose pictures lie in `val2017` beside it or beside its folder `annotations`:

    {"images": [{"id": 139, "file_name": "000000000139.jpg", …}, …],
     "annotations": [{"image_id": 139, "caption": "A woman stands in the dining area.", …}, …]}
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.reading.records import IMAGE, Fault, Record, named_picture, row_name
from engine.system.files import open_regular

# Some COCO pictures have six or seven; 25,000 captions for 5,000 pictures is what is reported on.
CAPTIONS_A_PICTURE = 5


@dataclass(frozen=True)
class Karpathy:
    """Such a file, whose pictures are files of `folder` (default: as above, else the one that it lies in)."""

    path: Path
    folder: Path | None = None

    @property
    def by_path(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        """The pictures of all parts in file order, each with its first five captions and "split".

        Raises DatasetError where the file is of another form.
        """
        folder = self.path.parent if self.folder is None else self.folder
        try:
            with open_regular(self.path) as opened:
                whole = json.loads(opened.read())
            pictures = list(enumerate(whole["images"]))
            said = _captions(whole["annotations"]) if "annotations" in whole else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = Fault(
                'JSON with "images", as in dataset_coco.json or captions_val2017.json',
                repr(error),
                "Give one of Karpathy's files, one of COCO's captions, or a captions file.",
            )
            raise fault.at(self.path) from None
        if said is not None:
            yield from self._of_coco(pictures, said)
            return
        for number, about in pictures:
            place = f"{self.path}: images[{number}]"
            try:
                values = {
                    IMAGE: (Path(about.get("filepath", "")) / about["filename"]).as_posix(),
                    "captions": [said["raw"] for said in about["sentences"]][:CAPTIONS_A_PICTURE],
                    "split": str(about["split"]),
                }
            except (KeyError, TypeError, AttributeError) as error:
                expected = '"filename", "sentences" with "raw", and "split"'
                fault = Fault(expected, repr(error), "Mend the entry, or remove it.")
                yield Record(row_name(number + 1), place, fault=fault)
                continue
            yield named_picture(place, number + 1, values, folder)

    def _of_coco(
        self, pictures: list[tuple[int, Any]], said: Mapping[Any, list[str]]
    ) -> Iterator[Record]:
        folder = self._pictures_folder if self.folder is None else self.folder
        for number, about in pictures:
            place = f"{self.path}: images[{number}]"
            try:
                captions = said.get(about["id"], [])[:CAPTIONS_A_PICTURE]
                values = {IMAGE: about["file_name"], "captions": captions}
            except (KeyError, TypeError) as error:
                fault = Fault('"id" and "file_name"', repr(error), "Mend the entry, or remove it.")
                yield Record(row_name(number + 1), place, fault=fault)
                continue
            yield named_picture(place, number + 1, values, folder)

    @property
    def _pictures_folder(self) -> Path:
        """`val2017` for `captions_val2017.json`, beside it or one folder up; else where the file lies."""
        name, here = self.path.stem.partition("_")[2], self.path.parent
        found = (folder / name for folder in (here, here.parent) if name)
        return next((folder for folder in found if folder.is_dir()), here)


def _captions(annotations: Any) -> dict[Any, list[str]]:
    """By the id of the picture; what has no caption, as in COCO's files of boxes, is passed over."""
    said: dict[Any, list[str]] = {}
    for one in annotations:
        if "caption" in one:
            said.setdefault(one["image_id"], []).append(one["caption"])
    return said
