"""Build the real pictures that training and evaluation run on: ``python -m examples.build``.

Six sources of captioned pictures are fetched through the machine's ordinary package clients
(npm, apt, pip), drawn on white squares and written as a folder that anyone can read::

    build/pictures/noto/1f600.webp       224 x 224 px, RGB
    build/pictures/captions.jsonl        one JSON object a line, one line a picture
    build/pictures/skipped.txt           what was left out, and why

A line of ``captions.jsonl`` holds ``image`` (path inside the folder), ``captions`` (best first),
``concept``, ``source``, ``licence`` and ``splits``. The rules behind ``concept`` and ``splits``
are in :mod:`examples.build.splits`.
"""
