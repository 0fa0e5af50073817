"""Vectors computed beforehand, aligned with a data set: one `.safetensors` file, or a folder of `.npy` files.

| tensor, or file + ".npy" | shape | |
|---|---|---|
| `image` | `[N, D]` | fine vectors of the pictures, in the order of the data set |
| `text` | `[M, D]` | fine vectors of all captions: those of the first picture, of the second, … |
| `image_coarse`, `text_coarse` | `[N, d]`, `[M, d]` | both, or neither |

Floats of any width. N and M are those of the whole data set, or of the part that is asked for.
"""

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from engine.embeddings import Embeddings
from engine.evaluation.pool import Pool
from engine.index import check_vectors
from engine.queries.batch import as_vectors
from engine.reading.records import Fault
from engine.reading.vectors import NAMES, vector_tables


def holds_vectors(path: Path) -> bool:
    """Whether `path` is of this form, not a checkpoint or an export."""
    return path.suffix == ".safetensors" or (path / "image.npy").is_file()


def read_vectors(path: Path, *, normalize: bool = False) -> tuple[Embeddings, Embeddings]:
    """The vectors of pictures and of captions, float32 or float16 as stored; `normalize`: scaled to unit length.

    Raises DatasetError where a file is missing or damaged, InvalidArgument for wrong shapes and for NaN and inf.
    """
    tables = {name: table for name, table in vector_tables(path).items() if name in NAMES}
    missing = {"image", "text"} - tables.keys()
    if len(tables.keys() & {"image_coarse", "text_coarse"}) == 1:
        missing |= {"image_coarse", "text_coarse"} - tables.keys()
    if missing:
        fault = Fault(
            f"vectors called {' and '.join(sorted(missing))}", f"{sorted(tables)}", "Add them."
        )
        raise fault.at(path)
    vectors: dict[str, Tensor] = {}
    for name, table in tables.items():
        tensor = as_vectors(name, table.checked()[:])
        check_vectors(name, tensor.numpy())
        vectors[name] = F.normalize(tensor.float(), dim=1) if normalize else tensor
    return (
        Embeddings(vectors.get("image_coarse"), vectors["image"]),
        Embeddings(vectors.get("text_coarse"), vectors["text"]),
    )


def write_vectors(pool: Pool, path: Path) -> None:
    """The vectors of a pool as a `.safetensors` file, which appears whole or not at all."""
    from safetensors.torch import save_file

    tensors = {"image": pool.images.fine, "text": pool.texts.fine}
    if pool.images.coarse is not None and pool.texts.coarse is not None:
        tensors |= {"image_coarse": pool.images.coarse, "text_coarse": pool.texts.coarse}
    draft = path.with_name(f".{path.name}.draft")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
    draft.replace(path)
