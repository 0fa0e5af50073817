"""Flickr30k and COCO as the literature splits them: `dataset_flickr30k.json`, `dataset_coco.json`.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
                 "sentences": [{"raw": "A man with a red helmet …", …}, …], …}, …], "dataset": "coco"}

`filepath` is COCO's own; Flickr30k has file names only. The splits are Karpathy's (arXiv 1412.2306): 1,000 and
5,000 pictures for test, and COCO's "restval", which is trained on.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from engine.dataset.examples import Record
from engine.errors import DatasetError
from engine.system.files import open_regular

CAPTIONS_A_PICTURE = (
    5  # some COCO pictures have six or seven; 25,000 captions for 5,000 is what is reported on
)


def karpathy(file: Path) -> Iterator[Record]:
    """The pictures of all parts in file order, each with its first five captions."""
    try:
        with open_regular(file) as opened:
            images = json.loads(opened.read())["images"]
        entries = list(enumerate(images))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f'{file}: JSON with "images" expected, as in dataset_coco.json, got {error!r}.'
        ) from None
    for number, entry in entries:
        place = f"{file}: images[{number}]"
        try:
            image = Path(entry.get("filepath", "")) / entry["filename"]
            captions = [sentence["raw"] for sentence in entry["sentences"]]
            part = str(entry["split"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f'{place}: "filename", "sentences" with "raw", and "split" expected, got {error!r}.'
            ) from None
        yield Record(place, image, captions[:CAPTIONS_A_PICTURE], None, {None: part})
