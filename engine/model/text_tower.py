"""The text towers of our own models: token ids `[B, T]` and their mask to features `[B, F]`."""

from torch import Tensor, nn


class MeanOfPieces(nn.Embedding):
    """The mean of the word vectors of a sentence's pieces: a text tower of no layers."""

    def forward(  # type: ignore[override]  # a sentence instead of ids alone
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        return mean_of_kept(super().forward(input_ids), attention_mask)


def mean_of_kept(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Token states `[B, T, hidden]` to their mean `[B, hidden]` over the tokens whose mask is 1."""
    kept = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
