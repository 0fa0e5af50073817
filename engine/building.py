"""From a folder of pictures to a retriever over them."""

from pathlib import Path

from engine.dataset import CAPTIONS, Picture, read_dataset
from engine.encoders import Encoder, encode_all
from engine.images import find_images
from engine.progress import progress
from engine.retriever import Retriever


def index_folder(folder: Path, encoder: Encoder) -> Retriever:
    """Encode every picture below `folder`; ids are paths relative to it.

    Where the folder has a `captions.jsonl`, its pictures are taken, and their captions become metadata.
    """
    images: list[Picture] = [*find_images(folder)]
    metadata = None
    if (folder / CAPTIONS).is_file():
        examples = read_dataset(folder)
        images = [example.image for example in examples]
        metadata = [{"captions": list(example.captions)} for example in examples]
    with progress(f"encoding {folder}", len(images)) as advance:
        vectors = encode_all(encoder, images, advance)
    retriever = Retriever.from_pretrained(encoder)
    ids = [
        image.relative_to(folder).as_posix() if isinstance(image, Path) else image.name
        for image in images
    ]
    retriever.add(embeddings=vectors, ids=ids, metadata=metadata)
    return retriever
