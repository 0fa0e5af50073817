"""`make demo`: index 900 bundled pictures, search them with words and with pictures, show what came back.

Everything it uses is in the repository: examples/pictures and examples/checkpoint. It writes demo.html, a page that
needs nothing else.
"""

import argparse
import base64
import json
import time
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console
from rich.progress import track

import engine
from engine.system.threads import wait_passively

wait_passively()  # before anything loads torch: `engine.Retriever` below does
HERE = Path(__file__).parent
PICTURES, CHECKPOINT = HERE / "pictures", HERE / "checkpoint"
STYLE = "twemoji"  # one of the three that are bundled
SHOWN = slice(250, 1150)  # people to tools: all 4,257 pictures take two cores a minute to encode
AT_A_TIME = 128
K, RECALL = 6, 0.98

SENTENCES = (
    "a slice of pizza",
    "someone riding a bicycle",
    "heavy rain and lightning",
    "a house with a garden",
    "birthday cake with candles",
    "a dog",
    "a castle",
    "scissors to cut paper",
    "a soccer ball",
    "a sailing boat on the sea",
    "a police officer",
    "an old telephone",
)
# Drawn by another hand, which the checkpoint was not trained on; they are not in the index.
PICTURE_QUERIES = ("noto/1f3b8.webp", "noto/1f680.webp", "noto/1f951.webp")


def main() -> None:
    """Index, search, compare with the exact answer, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--html", type=Path, default=Path("demo.html"), help="where to write the page"
    )
    page = parser.parse_args().html
    console = Console(highlight=False)

    started = time.perf_counter()
    retriever = engine.Retriever.from_pretrained(CHECKPOINT)
    records = [json.loads(line) for line in (PICTURES / "captions.jsonl").open(encoding="utf-8")]
    records = [record for record in records if record["source"] == STYLE][SHOWN]
    for start in track(range(0, len(records), AT_A_TIME), "encoding", console=Console(stderr=True)):
        part = records[start : start + AT_A_TIME]
        retriever.add(
            [PICTURES / record["image"] for record in part],
            ids=[record["image"] for record in part],
            metadata=[{"captions": record["captions"]} for record in part],
        )
    console.print(f"[bold]{retriever}[/bold]")
    console.print(f"indexed in {time.perf_counter() - started:.1f} s")
    calibration = retriever.calibrate(_some_captions(retriever), K, target_recall=RECALL)
    console.print(
        f"calibrated: {calibration.candidates:,} candidates find {calibration.recall:.1%} of what the exact "
        f"search finds for {calibration.queries} captions\n"
    )
    retriever.warmup(batch_sizes=(len(SENTENCES),), k=K)

    by_words = retriever.search(list(SENTENCES), k=K)
    by_pictures = retriever.search([PICTURES / name for name in PICTURE_QUERIES], k=K)

    for query, hits in zip((*SENTENCES, *PICTURE_QUERIES), (*by_words, *by_pictures), strict=True):
        console.print(f"[bold]{query}[/bold]")
        for hit in hits[:3]:
            console.print(f"  {hit.score:.3f}  {hit.id:<42} {_caption(hit)}")
    timings = by_words.timings
    stages = (
        f"{len(SENTENCES)} sentences, {len(retriever):,} pictures: encode {1e3 * timings.encode:.1f} ms, "
        f"coarse {1e3 * timings.coarse:.2f} ms, rerank {1e3 * timings.rerank:.2f} ms"
    )
    agreement = _agreement(retriever, by_words)
    console.print(f"\n{stages}\n{agreement}")
    page.write_text(_page(by_words, by_pictures, f"{stages}. {agreement}."), encoding="utf-8")
    console.print(f"open [bold]{page}[/bold] in a browser")


def _some_captions(retriever: engine.Retriever) -> list[str]:
    """The first caption of every fourth picture, each once."""
    items = (retriever.index.metadata_at(row) for row in range(0, len(retriever), 4))
    return sorted({item["captions"][0] for item in items if item})


def _agreement(retriever: engine.Retriever, found: engine.SearchResult) -> str:
    exact = retriever.search(list(SENTENCES), k=K, mode="exact")
    same = sum(len(set(some) & set(all_)) for some, all_ in zip(found.ids, exact.ids, strict=True))
    total = sum(len(ids) for ids in exact.ids)
    return f"two-stage search found {same} of the {total} pictures that the exact search finds"


def _caption(hit: engine.Hit) -> str:
    return str(hit.metadata["captions"][0]) if hit.metadata else ""


def _page(by_words: engine.SearchResult, by_pictures: engine.SearchResult, footnote: str) -> str:
    asked = [f"<h2>{escape(sentence)}</h2>" for sentence in SENTENCES]
    asked += [_image(name, "asked with this picture") for name in PICTURE_QUERIES]
    rows = "\n".join(
        f'<section><div class="query">{query}</div><div class="hits">'
        + "".join(
            f"<figure>{_image(str(hit.id), _caption(hit))}"
            f"<figcaption>{escape(_caption(hit))}<br><span>{hit.score:.3f}</span></figcaption></figure>"
            for hit in hits
        )
        + "</div></section>"
        for query, hits in zip(asked, (*by_words, *by_pictures), strict=True)
    )
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(rows=rows, footnote=escape(footnote))


def _image(name: str, alt: str) -> str:
    content = base64.b64encode((PICTURES / name).read_bytes()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/webp;base64,{content}">'


if __name__ == "__main__":
    main()
