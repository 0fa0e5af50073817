"""Flickr30k and COCO as the literature splits them: `dataset_flickr30k.json`, `dataset_coco.json`.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
                 "sentences": [{"raw": "A man with a red helmet …", …}, …], …}, …], "dataset": "coco"}

`filepath` is COCO's own; Flickr30k has file names only. The splits are Karpathy's (arXiv 1412.2306): 1,000 and
5,000 pictures for test, and COCO's "restval", which is trained on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.reading.records import IMAGE, Fault, Record, named_picture, row_name
from engine.system.files import open_regular

# Some COCO pictures have six or seven; 25,000 captions for 5,000 pictures is what is reported on.
CAPTIONS_A_PICTURE = 5


@dataclass(frozen=True)
class Karpathy:
    """Such a file, whose pictures are files of `folder` (default: the one that it lies in)."""

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
                images = json.loads(opened.read())["images"]
            pictures = list(enumerate(images))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = Fault(
                'JSON with "images", as in dataset_coco.json',
                repr(error),
                "Give one of Karpathy's files, or a captions file.",
            )
            raise fault.at(self.path) from None
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
