"""Text that is no sentence: what only names a picture, or cannot be encoded, is refused before it is."""

import os
import re
from typing import Any

from engine.errors import InvalidArgument

LONGEST_PATH = 4096  # characters; no system takes longer ones
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+|data:image/\S+", re.IGNORECASE)
_PICTURE = re.compile(
    r"\.(jpe?g|jfif|jpe|png|apng|webp|gif|bmp|tiff?|heic|heif|avif|svg|ico|jxl|jp2|dng)$",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"\.\w{1,8}$")
_SEPARATORS = re.compile(r"[/\\]")


def named_by(text: str) -> str | None:
    """What a text names instead of saying something: "a URL", "a picture" or "a file"; None of a sentence.

    A URL is one whatever it leads to. A picture has the suffix of one, and no blank or a folder before it. A file,
    or a folder, is there; nobody looks for it unless the text has a separator or ends in a suffix.
    """
    text = text.strip()
    if len(text) > LONGEST_PATH or "\n" in text:
        return None
    if _URL.fullmatch(text):
        return "a URL"
    separated = _SEPARATORS.search(text) is not None
    if _PICTURE.search(text) and (separated or not re.search(r"\s", text)):
        return "a picture"
    if (separated or _SUFFIX.search(text)) and os.path.exists(text):
        return "a file" if os.path.isfile(text) else "a folder" if separated else None
    return None


def checked_text(name: str, text: str, *, forced: bool = False) -> str:
    """`text`, to be encoded; forced: even where it names a picture.

    Raises InvalidArgument where there is none, where it names something, or where UTF-8 cannot hold it.
    """
    text = str(text)  # of NumPy's strings, too
    named = None if forced else named_by(text)
    if named == "a URL":
        raise _refused(name, text, named, "Download it, and pass its bytes or its Path")
    if named is not None:
        raise _refused(name, text, f"the path of {named}", "Pass pathlib.Path(…) for what it shows")
    if not text.strip():
        raise InvalidArgument(
            name, expected="words to search for", got=repr(text), remedy="Leave it out."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            name,
            expected="text that UTF-8 can hold",
            got=f"{text!r:.80}",
            remedy="Leave out lone surrogates: halves of a character.",
        ) from None
    return text


def refuse_url(name: str, path: Any) -> None:
    """Raise InvalidArgument where a URL stands for the path of a picture: nothing is downloaded here."""
    if _URL.fullmatch(str(path).strip()):
        raise InvalidArgument(
            name,
            expected="a picture: PIL.Image, path or encoded bytes",
            got=f"a URL, {str(path)!r:.200}",
            remedy="Download it, and pass its bytes or its path.",
        )


def _refused(name: str, text: str, named: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(
        name,
        expected="words",
        got=f"{named}, {text!r:.200}",
        remedy=f"{remedy}; engine.Query(text=…) takes it as words all the same.",
    )
