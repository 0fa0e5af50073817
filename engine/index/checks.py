"""What an index refuses to hold, and ids in the form in which it holds them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.checks import check_list, described
from engine.errors import InvalidArgument
from engine.index.manifest import FINE_DTYPES, Array, dtype_name
from engine.index.strings import Strings

Id: TypeAlias = int | str
Ids: TypeAlias = NDArray[np.int64] | Strings

ROWS_AT_A_TIME = 1 << 16


def check_vectors(name: str, vectors: Array, dtypes: Sequence[str] = FINE_DTYPES) -> None:
    """Refuse what cannot be stored: wrong rank or dtype, and NaN or inf, naming the first bad row."""
    dtype = dtype_name(vectors)
    if vectors.ndim != 2 or dtype not in dtypes or not vectors.shape[1]:
        raise InvalidArgument(
            name,
            expected=f"an array of {' or '.join(dtypes)} of rank 2 with at least one column",
            got=f"{dtype} of shape {vectors.shape}",
            remedy="Give one row per item.",
        )
    for first in range(0, len(vectors), ROWS_AT_A_TIME):
        bad = ~_finite(vectors[first : first + ROWS_AT_A_TIME]).all(axis=1)
        if bad.any():
            raise InvalidArgument(
                name,
                expected=f"finite values once stored as {dtype}",
                got=f"NaN or inf in row {first + int(bad.argmax())}",
                remedy="Mend or leave out that row; for values beyond float16's 65504, store float32.",
            )


def _finite(vectors: Array) -> NDArray[np.bool_]:
    if vectors.dtype == np.uint16:  # bfloat16: all ones in the exponent are inf and NaN
        return np.asarray((vectors & 0x7F80) != 0x7F80)
    return np.isfinite(vectors)


def checked_ids(ids: Any) -> Any:
    """Ids as a caller gave them, as a list or int64 `[n]`; one id, or what has no order, is refused."""
    if isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.ndim == 1:
        return ids
    listed = check_list("ids", ids, expected="a list of ids")
    return [id.item() if isinstance(id, np.generic) else id for id in listed]


def checked_metadata(metadata: Any) -> list[Mapping[str, Any] | None]:
    """Metadata as a caller gave it, as a list; what is no mapping is refused."""
    listed = check_list("metadata", metadata, expected="a list of mappings or None, one per item")
    for place, item in enumerate(listed):
        if item is not None and not isinstance(item, Mapping):
            raise InvalidArgument(
                f"metadata[{place}]",
                expected="a mapping from names to values, or None",
                got=described(item),
                remedy="For example: {'year': 2000}.",
            )
    return listed


def refuse_flags(name: str, given: Any, entries: Sequence[Any], lengths: Sequence[int]) -> None:
    """Raise InvalidArgument where `entries`, taken for ids, are a mask of 0 and 1 over the items.

    given: what they were made of; lengths: those that a mask of the index may have.
    """
    small = str(getattr(given, "dtype", "")).removeprefix("torch.") in ("int8", "uint8")
    long = len(entries) > 2 and len(entries) in lengths
    numbers = isinstance(entries[0], int | float) if len(entries) else False
    if numbers and (small or (long and all(entry in (0, 1) for entry in entries))):
        raise InvalidArgument(
            name,
            expected="ids, or a mask of dtype bool",
            got=f"{len(entries)} integers of 8 bits" if small else f"{len(entries)} times 0 or 1",
            remedy="Of a mask, pass `mask != 0`; search has it as filter=. Of ids, pass int64.",
        )


def packed_ids(given: Sequence[Id] | Array, count: int) -> Ids:
    """`count` different ids of one kind: int64, or strings."""
    ids = checked_ids(given)
    if len(ids) != count:
        raise InvalidArgument(
            "ids", expected=f"one id per item ({count})", got=f"{len(ids)}", remedy="Give one each."
        )
    packed: Ids = np.ascontiguousarray(ids) if isinstance(ids, np.ndarray) else _packed(ids)
    if isinstance(packed, np.ndarray):
        ordered = np.sort(packed)
        twice = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
    else:
        twice = [id for id, times in Counter(packed).items() if times > 1]
    if twice:
        raise InvalidArgument(
            "ids",
            expected="different ids",
            got=f"{twice[0]!r} twice",
            remedy="Give each item its own.",
        )
    return packed


def _packed(values: Sequence[Id]) -> Ids:
    kinds = {type(value) for value in values}
    if kinds - {int} and kinds - {str}:
        raise InvalidArgument(
            "ids",
            expected="all str or all int",
            got=", ".join(sorted(kind.__name__ for kind in kinds)),
            remedy="Convert them to one kind.",
        )
    try:
        if str in kinds:
            return Strings.of(map(str, values))
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise InvalidArgument(
            "ids", expected="integers that fit int64", got="a larger one", remedy="Use str ids."
        ) from None
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            "ids",
            expected="strings that UTF-8 can hold",
            got=repr(error.object),
            remedy="Leave out lone surrogates.",
        ) from None
