"""What a picture is a picture of, and who may learn from it.

``concept``: an emoji's code points (``1f600``; no variation selectors). A picture of another source
whose label says the same as an emoji's is of that concept (a clip-art "Frog" is ``1f438``), else its
own label is the concept (``armadillo``), the same for all sources.

``splits``, each ``train`` or ``test``, for every picture:

* ``style``: every Noto picture is test: same concepts, a hand never seen.
* ``concept``: one fifth of the emoji concepts is test in every style and every source. Concepts
  that are drawn alike go together (:func:`family`), so no test picture has a twin in train.
* ``tux``: every Tux Paint stamp is test: another domain, half of it photographs.

Skin tones are left out (five copies of one caption), and so are the letters from which flags are
made and the skin and hair swatches. Flags and keycaps are in: a hundred flags are a hard and honest
test, and a reader can filter them by ``concept``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

Side = Literal["train", "test"]

# four or five hex digits each, at least one of them a digit ("cafe" is a word)
_CODE_POINTS = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{4,5}(-[0-9a-f]{4,5})*")
_GENDER_SIGNS = {"2640", "2642", "27a1"}  # 27a1: the same picture, facing right
_PEOPLE = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2"}
_SAME = {
    # couples and families have a code point of their own beside the spelled-out ones
    "1f9d1-200d-2764-200d-1f9d1": "1f491",
    "1f9d1-200d-2764-200d-1f48b-200d-1f9d1": "1f48f",
}
_SAME_FLAG = {"cp": "fr", "mf": "fr", "sj": "no", "bv": "no", "um": "us", "dg": "io", "hm": "au"}
_SAME_FLAG |= {"ea": "es", "ro": "td"}


def family(concept: str) -> str:
    """The concept, less what tells man from woman and left from right, and flags drawn alike."""
    parts = [_PEOPLE.get(p, p) for p in concept.split("-") if p not in _GENDER_SIGNS]
    while parts and parts[-1] == "200d":
        parts.pop()
    joined = "-".join(parts)
    if "1f9d2" in parts[1:] and set(parts) <= {"1f9d1", "1f9d2", "200d"}:
        return "1f46a"
    return _SAME.get(joined, _flag(joined))


def _flag(concept: str) -> str:
    letters = [chr(int(p, 16) - 0x1F1E6 + ord("a")) for p in concept.split("-") if _is_letter(p)]
    code = "".join(letters)
    if code not in _SAME_FLAG:
        return concept
    return "-".join(f"{ord(c) - ord('a') + 0x1F1E6:x}" for c in _SAME_FLAG[code])


def _is_letter(part: str) -> bool:
    return len(part) == 5 and "1f1e6" <= part <= "1f1ff"


def splits(source: str, concept: str) -> dict[str, Side]:
    """The three splits of a picture of ``concept`` from ``source``."""
    is_emoji = _CODE_POINTS.fullmatch(concept) is not None
    fifth = int.from_bytes(hashlib.sha256(family(concept).encode()).digest()[:8], "big") % 5
    return {
        "style": "test" if source == "noto" else "train",
        "concept": "test" if is_emoji and fifth == 0 else "train",
        "tux": "test" if source == "tuxpaint" else "train",
    }
