"""`EncoderOnDemand`: the encoder of an index, opened when something is to be encoded."""

from pathlib import Path

from engine.checks import check_path
from engine.device import pick_device
from engine.encoders.encoder import Encoder, warm
from engine.encoders.remembered import open_named, open_remembered
from engine.errors import CheckpointMismatch, InvalidArgument
from engine.index import CheckpointReference, Index
from engine.system.forks import forkable_lock


class EncoderOnDemand:
    """The one that was given for `index`, opened and compared at once; else the one that the index remembers.

    Many threads may use it: one of them opens the encoder.
    """

    def __init__(self, given: Encoder | str | Path | None, index: Index, device: str) -> None:
        self._device = str(pick_device(device))
        self._opening = forkable_lock()
        self._encoder: Encoder | None = None
        if given is not None:
            given = opened_encoder("encoder", given, index.checkpoint, device=device)
            self._encoder = matching(given, index)

    @property
    def is_open(self) -> bool:
        return self._encoder is not None

    def open(self, index: Index) -> Encoder:
        """The encoder of `index`, opened now if it was not; InvalidArgument where none is known."""
        with self._opening:
            if self._encoder is None:
                reference = index.checkpoint
                if reference is None:
                    raise InvalidArgument(
                        "encoder",
                        expected="an encoder, to search with text or images",
                        got="None, and the index remembers no checkpoint",
                        remedy="Pass Retriever(…, encoder=CHECKPOINT), or search with embeddings.",
                    )
                found = open_remembered(reference, index.path, device=self._device)
                self._encoder = matching(found, index)
            return self._encoder

    def warm(self, index: Index) -> None:
        """Open it and encode a text and a picture; nothing, where none is known."""
        if self.is_open or index.checkpoint is not None:
            warm(self.open(index))

    def close(self) -> None:
        """Let go of it."""
        with self._opening:
            self._encoder = None


def opened_encoder(
    name: str,
    given: Encoder | str | Path,
    expected: CheckpointReference | None = None,
    *,
    device: str,
) -> Encoder:
    """What was given as argument `name`: an encoder, or the path of one, opened."""
    if isinstance(given, Encoder):
        return given
    return open_named(check_path(name, given), expected, device=device)


def matching(encoder: Encoder, index: Index) -> Encoder:
    """`encoder`, if it can have made the vectors of `index`; else CheckpointMismatch."""
    encoder.reference.must_be(index.checkpoint)
    if encoder.fine_dim != index.header.fine_dim:
        raise CheckpointMismatch(
            "encoder",
            expected=f"fine vectors of {index.header.fine_dim} dims, as the index holds",
            got=str(encoder.fine_dim),
            remedy="Use the encoder that made the index, or build the index again.",
        )
    return encoder
