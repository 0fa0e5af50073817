"""Heads, objective, queue and recall once more, in float64 NumPy: what training is compared with.

Nothing here calls `engine`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


# ------------------------------------------------------------------ the loss


def log_softmax(row: Array) -> Array:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def softmax_loss(logits: Array, positives: NDArray[np.bool_]) -> float:
    rows = [-log_softmax(row)[chosen].mean() for row, chosen in zip(logits, positives, strict=True)]
    return float(np.mean(rows))


def sigmoid_loss(logits: Array, positives: NDArray[np.bool_], bias: float) -> float:
    total = 0.0
    for row, chosen in zip(logits, positives, strict=True):
        for logit, positive in zip(row, chosen, strict=True):
            total += np.log1p(np.exp(-(1 if positive else -1) * (logit + bias)))
    return total / len(logits)


def divergence(logits: Array, teacher: Array) -> float:
    rows = []
    for row, told in zip(logits, teacher, strict=True):
        p = np.exp(log_softmax(told))
        rows.append((p * (log_softmax(told) - log_softmax(row))).sum())
    return float(np.mean(rows))


@dataclass
class Pairs:
    """Image and text vectors by level, `[B, dim]` each, and what each pair shows, `[B]`."""

    image: dict[str, Array]
    text: dict[str, Array]
    concepts: Rows

    def before(self, later: "Pairs", count: int) -> "Pairs":
        """These and then the `later` ones; of all, the last `count`."""

        def last(old: Array, new: Array) -> Array:
            return np.concatenate((old, new))[-count:] if count else new[:0]

        return Pairs(
            {level: last(self.image[level], later.image[level]) for level in self.image},
            {level: last(self.text[level], later.text[level]) for level in self.text},
            last(self.concepts, later.concepts),  # type: ignore[arg-type]
        )


def objective(
    pairs: Pairs,
    queue: Pairs | None,
    scales: Mapping[str, float],
    weights: Mapping[str, float],
    distillation: float,
    biases: Mapping[str, float] | None,
) -> float:
    """The hierarchical loss; `scales` and `biases` by level, "fine" the last and the teacher."""
    columns = (
        pairs if queue is None else pairs.before(queue, len(pairs.concepts) + len(queue.concepts))
    )
    positives = pairs.concepts[:, None] == columns.concepts[None, :]
    logits = {
        level: (
            min(np.exp(scale), 100.0) * pairs.image[level] @ columns.text[level].T,
            min(np.exp(scale), 100.0) * pairs.text[level] @ columns.image[level].T,
        )
        for level, scale in scales.items()
    }
    total = 0.0
    for level, both in logits.items():
        parts = [
            softmax_loss(one, positives)
            if biases is None
            else sigmoid_loss(one, positives, biases[level])
            for one in both
        ]
        total += weights[level] * float(np.mean(parts))
        if level != "fine":
            pairs_of = zip(both, logits["fine"], strict=True)
            total += distillation * float(np.mean([divergence(a, b) for a, b in pairs_of]))
    return total


# ------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Shape:
    """What the model is asked to be; weights that do not fit are an error."""

    heads: str = "own"
    words: bool = True  # the coarse vectors of sentences have words of their own
    coarse_dim: int = 6


def image_vectors(weights: Mapping[str, Array], shape: Shape, features: Array) -> dict[str, Array]:
    """Of an image tower's features `[B, F]`, through the neck."""
    own = _part(weights, "image_heads")
    necked = _linear(own, "neck.2", _layer_norm(own, "neck.0", features))
    return _heads(own, shape, necked, necked)


def text_vectors(
    weights: Mapping[str, Array], shape: Shape, ids: Rows, mask: Rows
) -> dict[str, Array]:
    """Of token ids and masks `[B, T]`, by a text tower of no layers."""
    features = _mean_of_pieces(weights["text_tower.weight"], ids, mask)
    words = _mean_of_pieces(weights["coarse_pieces.weight"], ids, mask) if shape.words else features
    return _heads(_part(weights, "text_heads"), shape, features, words)


def _heads(
    own: Mapping[str, Array], shape: Shape, features: Array, coarse_features: Array
) -> dict[str, Array]:
    hidden = _trunk(own, "trunk", features)
    fine = _linear(own, "fine", hidden)
    coarse = {
        "own": lambda: _linear(own, "coarse", _trunk(own, "coarse_trunk", coarse_features)),
        "shared": lambda: _linear(own, "coarse", hidden),
        "nested": lambda: fine[:, : shape.coarse_dim],
    }[shape.heads]()
    return {
        level: vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for level, vectors in (("coarse", coarse), ("fine", fine))
    }


def _part(weights: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(name)}


def _trunk(own: Mapping[str, Array], name: str, features: Array) -> Array:
    return _gelu(_linear(own, f"{name}.2", _layer_norm(own, f"{name}.0", features)))


def _layer_norm(own: Mapping[str, Array], name: str, given: Array) -> Array:
    centred = given - given.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return normal * own[f"{name}.weight"] + own[f"{name}.bias"]


def _linear(own: Mapping[str, Array], name: str, given: Array) -> Array:
    return given @ own[f"{name}.weight"].T + own.get(f"{name}.bias", 0.0)


def _gelu(given: Array) -> Array:
    return given * (1 + np.vectorize(math.erf)(given / math.sqrt(2))) / 2


def _mean_of_pieces(table: Array, ids: Rows, mask: Rows) -> Array:
    return np.stack(
        [table[row[kept == 1]].mean(axis=0) for row, kept in zip(ids, mask, strict=True)]
    )


# ------------------------------------------------------------------ the recall


def average_recall(
    images: Mapping[str, Array],
    texts: Mapping[str, Array],
    picture_concepts: Sequence[str],
    caption_concepts: Sequence[str],
    candidates: int,
) -> float:
    """Mean of R@1, R@5, R@10 both ways in percent: the best by coarse scores, by fine ones, then the rest."""
    recalls = []
    for asking, asked, own, wanted in (
        (texts, images, caption_concepts, picture_concepts),
        (images, texts, picture_concepts, caption_concepts),
    ):
        places = []
        for query, concept in enumerate(own):
            by_coarse = np.argsort(-(asked["coarse"] @ asking["coarse"][query]), kind="stable")
            chosen, rest = by_coarse[:candidates], by_coarse[candidates:]
            fine = asked["fine"][chosen] @ asking["fine"][query]
            order = [*chosen[np.argsort(-fine, kind="stable")], *rest]
            places.append(next(at for at, row in enumerate(order) if wanted[row] == concept))
        recalls += [100 * np.mean([place < k for place in places]) for k in (1, 5, 10)]
    return float(np.mean(recalls))
