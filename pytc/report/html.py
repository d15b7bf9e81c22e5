"""The report: one HTML file that carries its pictures, opens anywhere, and needs no script."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from pytc.report.pictures import Picture

# Name, decimals and meaning of each figure; figures that are not here are shown under their key.
FIGURES = {
    "threshold": ("Threshold", 4, "affinities above it connect"),
    "nerl": ("NERL", 3, "expected run length as a share of the best possible; 1 is perfect"),
    "erl": ("ERL, nm", 0, "expected length of skeleton without an error, from a random point on one"),
    "max_erl": ("Best ERL, nm", 0, "ERL of a perfect segmentation of these skeletons"),
    "voi_sum": ("VOI", 3, "variation of information over skeleton nodes, bits; 0 is perfect"),
    "voi_split": ("VOI split", 3, "bits lost because neurons fall apart, over skeleton nodes"),
    "voi_merge": ("VOI merge", 3, "bits lost because neurons run together, over skeleton nodes"),
    "n_mergers": ("Mergers", 0, "pieces of skeletons that share a segment with another skeleton, segment 0 included"),
    "n_non0_mergers": ("Mergers outside 0", 0, "the same without segment 0"),
    "n_splits": ("Splits", 0, "skeleton edges that lead from one segment into another"),
    "nerl_5": ("NERL, 5 nodes", 3, "NERL if pieces of at most 5 nodes are overlooked when mergers are sought"),
    "nerl_20": ("NERL, 20 nodes", 3, "the same for pieces of at most 20 nodes"),
    "nerl_100": ("NERL, 100 nodes", 3, "the same for pieces of at most 100 nodes"),
    "nerl_inf": ("NERL, no mergers", 3, "NERL if no merger counted: splits alone"),
    "dense_voi_sum": ("Dense VOI", 3, "variation of information over labelled voxels, bits; 0 is perfect"),
    "dense_voi_split": ("Dense VOI split", 3, "bits lost because neurons fall apart, over labelled voxels"),
    "dense_voi_merge": ("Dense VOI merge", 3, "bits lost because neurons run together, over labelled voxels"),
    "dense_rand_split": ("Dense Rand split", 3, "share of voxel pairs of one neuron that are in one segment"),
    "dense_rand_merge": ("Dense Rand merge", 3, "share of voxel pairs of one segment that are in one neuron"),
    "dense_adapted_rand_error": ("Rand error", 3, "adapted Rand error: 1 - F-score of the two Rand scores"),
    "jaccard": ("Jaccard", 3, "intersection over union of the foregrounds; 1 is perfect"),
    "dice": ("Dice", 3, "F-score of the foreground; 1 is perfect"),
    "precision": ("Precision", 3, "share of the predicted foreground that is right"),
    "recall": ("Recall", 3, "share of the true foreground that is found"),
}
HEADLINES = ("nerl", "voi_sum", "n_mergers", "n_splits", "dense_voi_sum", "dense_adapted_rand_error",
             "jaccard", "dice", "precision", "recall")
STYLE = """
:root { --soft: #5c6b7a; --line: #e3e8ee; --blue: #1f5fbf }
* { box-sizing: border-box }
body { margin: 0; color: #1b2733; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
main { max-width: 1160px; margin: 0 auto; padding: 36px 28px 60px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 44px 0 12px }
p { margin: 4px 0 12px } p, figcaption, th { color: var(--soft); font-size: 13px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; background: #f5f8fc; font-size: 13px }
.card.chosen { border-color: var(--blue); box-shadow: inset 0 3px var(--blue) }
.card b { display: block; font-size: 30px; line-height: 1.2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; width: 100% }
th, td { text-align: left; padding: 5px 8px; border-bottom: 1px solid var(--line) }
tr.best td { background: #e8f1ff; font-weight: 650 }
img { display: block; max-width: 100%; max-height: 300px }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin-bottom: 16px }
figure { margin: 0 }
figure img { width: 100%; max-height: none; border-radius: 6px; image-rendering: pixelated }
i.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 5px 0 12px }
"""


@dataclass(frozen=True)
class Table:
    """A titled table; `best` is the index of the highlighted row."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: Collection[tuple[Any, ...]]
    best: int | None = None


def page(title: str, subtitle: str, parts: list[str]) -> str:
    body = "\n".join((f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>", *parts))
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(title)}</title><style>{STYLE}</style><main>\n{body}\n</main></html>\n")


def headlines(figures: dict[str, float], chosen: str) -> list[str]:
    """The figures to show first: the chosen one, and those of HEADLINES that there are."""
    return [key for key in dict.fromkeys((chosen, *HEADLINES)) if key in figures]


def name(key: str) -> str:
    """What a figure is called, e.g. NERL for nerl."""
    return FIGURES[key][0] if key in FIGURES else key


def number(key: str, value: float) -> str:
    """A figure with as many decimals as it deserves."""
    return f"{value:,.{FIGURES[key][1] if key in FIGURES else 3}f}"


def cards(figures: dict[str, float], chosen: str) -> str:
    """The headlines; `chosen` is the figure that the threshold was picked by."""
    shown = [f'<div class="card{" chosen" if key == chosen else ""}" title="{escape(FIGURES[key][2])}">'
             f"{name(key)}<b>{number(key, figures[key])}</b></div>" for key in headlines(figures, chosen)]
    return f'<div class="cards">{"".join(shown)}</div>'


def all_figures(figures: dict[str, float]) -> str:
    rows = [(key, number(key, value), FIGURES[key][2] if key in FIGURES else "") for key, value in figures.items()]
    return table(Table("All figures", "", ("in metrics.json", "value", "meaning"), rows))


def table(content: Table, picture: bytes | None = None) -> str:
    """A table under its heading; a PNG comes between the two."""
    rows = [f"<tr{' class=best' if i == content.best else ''}>{_cells('td', row)}</tr>"
            for i, row in enumerate(content.rows)]
    shown = _image(picture, "curves of the sweep") if picture else ""
    return (f"<h2>{escape(content.title)}</h2>{shown}<p>{escape(content.note)}</p>"
            f'<div class="wide"><table><tr>{_cells("th", content.header)}</tr>{"".join(rows)}</table></div>')


def slices(pictures: list[list[Picture]], note: str, legend: Iterable[tuple[str, tuple[int, int, int]]]) -> str:
    """Rows of pictures; note and legend (text, RGB) tell what the colours mean."""
    swatches = "".join(f'<i class=key style="background: rgb{rgb}"></i>{escape(text)}' for text, rgb in legend)
    rows = []
    for row in pictures:
        figures = [f"<figure>{_image(picture.png, picture.caption, f'aspect-ratio: {picture.aspect:.4f}')}"
                   f"<figcaption>{escape(picture.caption)}</figcaption></figure>" for picture in row]
        rows.append(f'<div class="row">{"".join(figures)}</div>')
    return f"<h2>Slices</h2><p>{note}{f'<br>Errors: {swatches}' if swatches else ''}</p>" + "\n".join(rows)


def _cells(tag: str, values: Iterable[Any]) -> str:
    return "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)


def _image(png: bytes, alt: str, style: str = "") -> str:
    return f'<img alt="{escape(alt)}" style="{style}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
