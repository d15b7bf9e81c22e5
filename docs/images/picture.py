"""The picture of the README: one slice as image, labels, segmentation and errors, side by side.

    python docs/images/picture.py IMAGE LABELS SEGMENTATION --slice 30 --output fib25.png

Colours are those of the report: a segment has the colour of the label that it covers best. The
three volumes have one shape (Z, Y, X), and the slice lies across z.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from pytc.evaluation.pictures import ERROR_STRENGTH, ERRORS, Matching, overlay, stretched, tint
from pytc.io.volume import open_volume
from pytc.metrics.overlap import contingency_table

GAP = 6  # white pixels between two panels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("labels")
    parser.add_argument("segmentation")
    parser.add_argument("--slice", type=int, required=True, help="index along z")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()

    labels = open_volume(asked.labels)[...]
    segmentation = open_volume(asked.segmentation)[...]
    matching = Matching(contingency_table(labels, segmentation), "instance")
    truth = labels[asked.slice].astype(np.int64)
    segments = segmentation[asked.slice].astype(np.int64)
    grey = stretched(open_volume(asked.image)[asked.slice].astype(np.float32))
    errors = matching.errors(truth, segments)

    panels = (
        tint(grey),
        overlay(grey, truth),
        overlay(grey, matching.colours(segments)),
        tint(grey, ERRORS[errors], ERROR_STRENGTH[errors]),
    )
    white = np.full((len(grey), GAP, 3), 255, np.uint8)
    between = [strip for panel in panels for strip in (white, panel)][1:]
    Image.fromarray(np.concatenate(between, axis=1)).save(asked.output, optimize=True)


if __name__ == "__main__":
    main()
