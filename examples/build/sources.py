"""The words of the builder: a source, the packages it comes from, the pictures it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image


class SourceError(Exception):
    """A whole source cannot be built; the message says why and, where it can, what to do."""


class DrawError(Exception):
    """One picture cannot be drawn; it is left out and the message is the reason."""


@dataclass(frozen=True)
class Package:
    """One file of a package registry, at the version this builder was written against."""

    client: Literal["npm", "apt", "pip"]
    name: str
    version: str


@dataclass(frozen=True)
class Picture:
    """A picture that a source offers; ``draw`` makes it, in its own size, only when asked."""

    id: str
    captions: tuple[str, ...]
    concept: str
    draw: Callable[[], Image]


@dataclass(frozen=True)
class Skipped:
    """A picture left out, and why."""

    id: str
    reason: str


Offer = Sequence[Picture | Skipped]


@dataclass(frozen=True)
class Source:
    """A named set of pictures under one licence. ``read`` takes the fetched files by package."""

    name: str
    licence: str
    packages: tuple[Package, ...]
    read: Callable[[Mapping[str, Path]], Offer]
