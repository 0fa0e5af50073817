"""Captions said in other ways, so that the text tower learns words and not the look of one captions file."""

import random

OPENINGS = ("a", "an", "the", "some", "a picture of", "a drawing of a", "something like a", "one")
JOINTS = (", ", " ", " and ", " with ", " or ")
KEPT_WHOLE = 0.55  # of the captions with several parts
OPENED = 0.35


def phrase(caption: str, chance: random.Random) -> str:
    """The caption, or some of its comma-separated parts in any order; now and then with an article before it.

    "umbrella, rain, weather" may become "a rain and umbrella".
    """
    parts = caption.split(", ")
    if len(parts) > 1 and chance.random() > KEPT_WHOLE:
        kept = chance.sample(parts, chance.randint(1, min(4, len(parts))))
        caption = chance.choice(JOINTS).join(kept)
    if chance.random() < OPENED:
        caption = f"{chance.choice(OPENINGS)} {caption}"
    return caption
