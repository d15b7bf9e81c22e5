"""The checks of a volume before it is trained on: a table, and a function for each of its rows.

A check looks at a sample of bounded size, and says in a sentence what looks wrong. It never refuses
anything: what cannot be right is an error where the volume is opened. `docs/check.md` lists the
checks; `tests/test_doubts.py` counts how many planted faults they find.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pytc.config import Config, Triple
from pytc.data import evidence
from pytc.data.evidence import Alignment, Sample
from pytc.data.facts import Facts
from pytc.data.sections import Section, damaged_sections
from pytc.data.sources import Source
from pytc.geometry import Box
from pytc.io import intensity
from pytc.io.labels import UNLABELLED
from pytc.io.placed import PlacedVolume, label_boxes
from pytc.target_kinds import target_kind

# Most voxels have the same label as their neighbour along an axis; few have the same grey value.
LABELS_AGREE = 0.9
GREYS_AGREE = 0.5
FEW_VALUES = 8
# Between the 1st and 99th percentile a network should see at least this share of its range.
NARROW = 0.08
# At most this share of the voxels should lie beyond the ends of the range.
OUTSIDE = 0.1
# Voxels are longer along an axis if grey values and labels change by this factor faster along it.
LONGER = 2.0
# Labels are shifted if they fit this much better elsewhere, with a correlation above FITS.
BETTER = 1.15
FITS = 0.06
FOLLOWS = 0.2  # labels that follow the image so well are not mirrored
CERTAIN = 8.0  # times the correlation that noise gives
BORDERS = 2000  # voxels of borders that are needed to judge
# Shares of the labelled voxels.
OPEN_BACKGROUND = 0.01  # background as wide as objects, between objects that touch
NEIGHBOURS_TOUCH = 0.15  # of the borders of objects, those that face another object nearby
SPECKS = 0.002
TINY = 0.005
GIANT = 0.7
FEW_OBJECTS = 12  # ids in a sample, of which one may well take most
MOST_LISTED = 12  # sections that one line names

Findings = list[dict[str, Any]]


@dataclass(eq=False)
class Look:
    """A volume that is looked at, and what is measured of it when a check asks for it."""

    source: Source
    facts: Facts
    greys: Sequence[np.ndarray]  # (C, Z, Y, X) stored values, from `intensity.take_sample`
    labels: Sequence[tuple[Box, np.ndarray]] = ()  # stored labels, evenly spread
    config: Config | None = None  # of the run, None without one
    training: Sequence[Facts] = field(default=())  # volumes that the network is trained on
    trained: "Look | None" = None  # the first of them
    flag: str = "--"  # before the names of flags that describe the volume
    patient: bool = False  # whether to read however long it takes
    said: list[str] = field(default_factory=list)  # about what looks wrong

    @property
    def of_instances(self) -> bool:
        """Whether labels are ids of objects, as far as a config says."""
        return self.config is not None and target_kind(self.config.target.kind).task == "instance"

    @cached_property
    def samples(self) -> list[Sample]:
        return [each for each in evidence.take_samples(self.source) if min(each.image.shape) > 1]

    @cached_property
    def roughness(self) -> np.ndarray:
        return evidence.roughness(self.samples)

    @cached_property
    def crossings(self) -> np.ndarray:
        return evidence.crossings(self.samples)

    @cached_property
    def alignments(self) -> list[Alignment]:
        return evidence.alignments(self.samples)

    @cached_property
    def objects(self) -> evidence.Objects:
        return evidence.objects(self.samples)

    @cached_property
    def sections(self) -> list[Section]:
        size = self.facts.voxel_size or (1.0, 1.0, 1.0)
        return damaged_sections(self.source, size.index(max(size)), patient=self.patient)


@dataclass(frozen=True)
class Check:
    """A row of the table.

    find: for each thing that looks wrong, the words that the message has in braces.
    """

    name: str
    needs: Literal["image", "labels", "run"]  # a run has a config, and its labels are judged by it
    looks_at: str
    message: str
    find: Callable[[Look], Findings]


def doubts(look: Look) -> list[str]:
    """A sentence about each thing that looks wrong, in the order of the table."""
    there_are = {"image": True, "labels": look.source.labels is not None}
    there_are["run"] = look.config is not None and there_are["labels"]
    return [
        check.message.format(image=look.facts.image, labels=look.facts.labels, **words)
        for check in CHECKS
        if there_are[check.needs]
        for words in check.find(look)
    ]


# --- image and labels exchanged ---


def looks_like_labels(boxes: Sequence[np.ndarray]) -> bool:
    """Whether an image has few values, or most voxels have the value of their neighbour."""
    padding = intensity.padding_value(list(boxes))
    values = intensity.without_padding(list(boxes))[::7]
    if len(np.unique(values)) < FEW_VALUES:
        return True
    same, pairs = 0, 0
    for box in boxes:
        before, after = box[..., :-1], box[..., 1:]
        counted = np.ones(before.shape, bool) if padding is None else before != padding
        same += int(np.count_nonzero((before == after) & counted))
        pairs += int(np.count_nonzero(counted))
    return same > LABELS_AGREE * pairs


def looks_like_image(boxes: Sequence[np.ndarray]) -> bool:
    """Whether most labels differ from the label of their neighbour."""
    same, pairs = 0, 0
    for box in boxes:
        before, after = box[..., :-1], box[..., 1:]
        counted = (before != 0) | (after != 0)
        same += int(np.count_nonzero((before == after) & counted))
        pairs += int(np.count_nonzero(counted))
    return same < GREYS_AGREE * pairs


def _image_is_labels(look: Look) -> Findings:
    return [{}] if looks_like_labels(look.greys) else []


def _labels_are_image(look: Look) -> Findings:
    boxes = [values for _, values in look.labels]
    if not looks_like_image(boxes):
        return []
    return [{"most": max(len(np.unique(box)) for box in boxes)}]


# --- grey values ---


def _range(look: Look) -> Findings:
    """The mapped grey values fill little of the range, or lie beyond it."""
    values = intensity.without_padding(list(look.greys))[::5]
    if len(np.unique(values)) < FEW_VALUES:
        return []
    mapped = intensity.to_float32(values, look.source.grey_range)
    low, high = np.percentile(mapped, (1, 99)).tolist()
    outside = float(np.mean((mapped < -0.05) | (mapped > 1.05)))
    if high - low >= NARROW and outside <= OUTSIDE:
        return []
    start, stop = look.facts.grey_range
    what = f"fill {high - low:.0%} of the range, from {low:.2f} to {high:.2f}"
    if outside > OUTSIDE:
        what = f"lie outside of the range at {outside:.0%} of the voxels"
    a, b = np.percentile(values, (0.5, 99.5)).tolist()
    flag = f"{look.flag}intensity {a:g} {b:g}"
    return [{"start": f"{start:g}", "stop": f"{stop:g}", "what": what, "flag": flag}]


def unlike_training(facts: Facts, training: Sequence[Facts], flag: str) -> Findings:
    """The mapped grey values differ much from those of every training volume.

    flag: before the name of the flag that corrects them.
    """
    if not training:
        return []
    histogram = list(facts.histogram)
    shifts = [intensity.shift_between(histogram, list(each.histogram)) for each in training]
    if min(shifts) <= intensity.FAR:
        return []
    low, high = facts.grey_range
    return [
        {
            "low": f"{low:g}",
            "high": f"{high:g}",
            "shift": f"{min(shifts):.2f}",
            "nearest": training[int(np.argmin(shifts))].image,
            "flag": f"{flag}intensity LOW HIGH",
        }
    ]


# --- axes and voxel size ---


def _axes(look: Look) -> Findings:
    """The voxels are stated to be long along an axis, but look so along another one."""
    stated = _longest(np.array(look.facts.voxel_size or (1.0, 1.0, 1.0)))
    seen, how = _seen_longest(look)
    if seen is None or seen == stated:
        return []
    if stated is None:
        return []
    return [
        {
            "stated": look.facts.axes[stated],
            "seen": look.facts.axes[seen],
            "how": how,
            "axes": look.facts.axes,
            "size": _lengths(look.facts.voxel_size),
            "flags": f"{look.flag}axes and {look.flag}voxel-size",
        }
    ]


def _voxel_size(look: Look) -> Findings:
    """No voxel size is stated, or one of cubes, but the voxels look long along an axis."""
    if _longest(np.array(look.facts.voxel_size or (1.0, 1.0, 1.0))) is not None:
        return []
    seen, how = _seen_longest(look)
    if seen is None:
        return []
    stated = "no voxel size is stated"
    if look.facts.voxel_size is not None:
        stated = f"the voxels are stated as {_lengths(look.facts.voxel_size)} nm"
    flag = f"{look.flag}voxel-size"
    return [{"stated": stated, "seen": look.facts.axes[seen], "how": how, "flag": flag}]


def _labels_in_other_axes(look: Look) -> Findings:
    """Image and labels look long along different axes."""
    if not _has_borders(look):
        return []
    of_image, of_labels = _longest(look.roughness), _longest(look.crossings)
    if of_image is None or of_labels is None or of_image == of_labels:
        return []
    return [{"of_image": look.facts.axes[of_image], "of_labels": look.facts.axes[of_labels]}]


def _seen_longest(look: Look) -> tuple[int | None, str]:
    """The axis along which the voxels look longest, and the figures for it; None if none does.

    Where there are labels they must say the same as the image, or nothing.
    """
    seen = _longest(look.roughness)
    if seen is None:
        return None, ""
    how = f"grey values change {_times(look.roughness, seen):.1f} times as fast along it"
    if _has_borders(look):
        of_labels = _longest(look.crossings)
        if of_labels not in (None, seen):
            return None, ""
        how += f", labels {_times(look.crossings, seen):.1f} times"
    return seen, how


def _longest(values: np.ndarray) -> int | None:
    """The axis whose value is LONGER times that of both others, or nearly; None without one."""
    axis = int(values.argmax())
    return axis if _times(values, axis) >= LONGER - 0.05 else None


def _times(values: np.ndarray, axis: int) -> float:
    others = [float(values[each]) for each in range(3) if each != axis]
    return float(values[axis]) / max(*others, 1e-9)


def _has_borders(look: Look) -> bool:
    return look.source.labels is not None and bool(look.crossings.all())


# --- image and labels apart ---


def _shifted(look: Look) -> Findings:
    """The labels follow the image better when they are moved.

    Their borders and their inside must agree: borders of objects with thick membranes between them
    lie beside the membranes.
    """
    certain = [each for each in look.alignments if _is_certain(each) and each.borders >= BORDERS]
    if not certain or not all(_fits_elsewhere(each, look) for each in certain):
        return []
    found = certain[0]
    moved = [(by, axis) for by, axis in zip(found.shift, look.facts.axes) if by != 0]
    shift = ", ".join(f"{by:+d} along {axis}" for by, axis in moved)
    return [{"shift": shift, "best": f"{abs(found.best):.2f}", "now": f"{abs(found.at_zero):.2f}"}]


def _fits_elsewhere(found: Alignment, look: Look) -> bool:
    return abs(found.best) > BETTER * abs(found.at_zero) and not _is_small(found.shift, look)


def _unrelated(look: Look) -> Findings:
    """The labels follow the image nowhere near, or better when they are mirrored or transposed."""
    found = look.alignments[0] if look.alignments else None
    if found is None or found.borders < 10 * BORDERS or abs(found.at_zero) >= FOLLOWS:
        return []
    if _is_certain(found) and abs(found.best) > BETTER * abs(found.at_zero):
        return []  # they are shifted
    turned = [(abs(value), how) for how, value in _turned(look)]
    best, how = max(turned, default=(0.0, ""))
    now = f"{abs(found.at_zero):.2f}"
    if best > max(2 * FITS, 3 * abs(found.at_zero)):
        return [{"now": now, "advice": f"{how} they do (correlation {best:.2f})"}]
    if abs(found.at_zero) < FITS:
        advice = "are they of another volume, mirrored or transposed?"
        return [{"now": now, "advice": advice}]
    return []


def _is_certain(found: Alignment) -> bool:
    return abs(found.best) > max(FITS, CERTAIN * found.noise)


def _is_small(shift: Triple, look: Look) -> bool:
    """Whether a shift is what careful annotators differ by: a voxel, but no thick section."""
    thick = _longest(np.array(look.facts.voxel_size or (1.0, 1.0, 1.0)))
    return all(abs(by) <= (0 if axis == thick else 1) for axis, by in enumerate(shift))


def _turned(look: Look) -> list[tuple[str, float]]:
    """The correlation of the image with the labels mirrored or transposed in their part."""
    assert look.source.labels is not None
    parts = label_boxes(look.source.labels)
    found = []
    for how, order, mirrored in _turns(look.facts.axes):
        samples = []
        for sample in look.samples:
            part = next(p for p in parts if p.intersection(sample.box) == sample.box)
            if all(part.shape[a] == part.shape[b] for a, b in enumerate(order)):
                box = _turned_box(sample.box, part, order, mirrored)
                labels = evidence.read_labels(look.source, box)
                assert labels is not None
                turned = np.flip(labels.transpose(order), mirrored)
                samples.append(Sample(sample.box, sample.image, turned))
        if samples:
            found.append((how, evidence.correlation_in_place(samples)))
    return found


def _turns(axes: str) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """In words, by the order of the axes, and by the axes that are mirrored."""
    turns: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for count in (1, 2, 3):
        for mirrored in itertools.combinations(range(3), count):
            names = " and ".join(axes[axis] for axis in mirrored)
            turns.append((f"mirrored along {names}", (0, 1, 2), mirrored))
    for order, (a, b) in {(1, 0, 2): (0, 1), (2, 1, 0): (0, 2), (0, 2, 1): (1, 2)}.items():
        turns.append((f"with {axes[a]} and {axes[b]} exchanged", order, ()))
    return turns


def _turned_box(box: Box, part: Box, order: tuple[int, ...], mirrored: tuple[int, ...]) -> Box:
    """Where the labels of a box lie, if those of its part were mirrored or transposed."""
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        low, high = box.start[axis] - part.start[axis], box.stop[axis] - part.start[axis]
        if axis in mirrored:
            low, high = part.shape[axis] - high, part.shape[axis] - low
        to = order[axis]
        start[to], stop[to] = part.start[to] + low, part.start[to] + high
    return Box(tuple(start), tuple(stop))


def _inverted(look: Look) -> Findings:
    """Borders of objects are brighter than their inside, in the training volume darker, or so."""
    if look.trained is None or look.trained.source.labels is None:
        return []
    found = []
    for each in (look, look.trained):
        borders = evidence.correlation_in_place(each.samples)
        if abs(borders) < FITS:
            return []
        found.append("brighter" if borders > 0 else "darker")
    if found[0] == found[1]:
        return []
    return [{"here": found[0], "there": found[1], "nearest": look.trained.facts.image}]


# --- labels alone ---


def _single(look: Look) -> Findings:
    return [{}] if look.of_instances and look.facts.n_labels == 1 else []


def _negative(look: Look) -> Findings:
    """Ids below -1, which labels of a signed type may hold."""
    lowest = min((int(values.min()) for _, values in look.labels), default=0)
    return [{"lowest": lowest}] if lowest < UNLABELLED else []


def _open_background(look: Look) -> Findings:
    """Background as wide as the objects, which touch each other elsewhere."""
    if not look.of_instances or evidence.touching(look.samples) < NEIGHBOURS_TOUCH:
        return []
    share = evidence.open_background(look.samples)
    return [{"share": f"{share:.0%}"}] if share > OPEN_BACKGROUND else []


def _empty_planes(look: Look) -> Findings:
    """Whole planes of background, where other planes hold objects and the image shows tissue."""
    found = []
    planes = evidence.empty_planes(look.labels, look.source.shape)
    for axis, (name, empty) in enumerate(zip(look.facts.axes, planes)):
        tissue = [plane for plane in empty if _shows_tissue(look, axis, plane)]
        if tissue:
            found.append({"axis": name, "planes": runs(tissue)})
    return found


def _shows_tissue(look: Look, axis: int, plane: int) -> bool:
    """Whether the image varies in a plane, in what was read of it."""
    for box, _ in look.labels:
        if box.start[axis] <= plane < box.stop[axis]:
            start, stop = list(box.start), list(box.stop)
            start[axis], stop[axis] = plane, plane + 1
            image = look.source.image.read(tuple(start), tuple(stop))
            if image.std() > 0:
                return True
    return False


def _tiny(look: Look) -> Findings:
    sizes = look.objects
    if sizes.specks_share > SPECKS:
        what = f"{sizes.specks_share:.1%} of the labelled voxels have no neighbour of their label"
    elif look.of_instances and sizes.tiny_share > TINY:
        what = f"{sizes.tiny:,} objects have fewer than {evidence.TINY} voxels"
    else:
        return []
    return [{"what": what}]


def _giant(look: Look) -> Findings:
    sizes = look.objects
    if not look.of_instances or sizes.ids < FEW_OBJECTS or sizes.largest_share <= GIANT:
        return []
    return [{"id": sizes.largest_id, "share": f"{sizes.largest_share:.0%}"}]


def _same_ids(look: Look) -> Findings:
    """Several labels of one image that hold the same ids."""
    labels = look.source.labels
    if not look.of_instances or not isinstance(labels, PlacedVolume):
        return []
    of_piece = []
    for piece in labels.pieces:
        ids: set[int] = set()
        for box, values in look.labels:
            if piece.box.intersection(box) == box:
                ids |= set(np.unique(values[values > 0]).tolist())
        of_piece.append(ids)
    found = []
    for (a, one), (b, other) in itertools.combinations(enumerate(of_piece), 2):
        shared = len(one & other)
        if shared > min(len(one), len(other)) / 2:
            first, second = labels.pieces[a].volume.path, labels.pieces[b].volume.path
            found.append({"first": first, "second": second, "count": shared})
    return found


# --- sections and patches ---


def _sections(look: Look) -> Findings:
    if not look.sections:
        return []
    size = look.facts.voxel_size or (1.0, 1.0, 1.0)
    axis = look.facts.axes[size.index(max(size))]
    return [{"count": len(look.sections), "axis": axis, "which": in_words(look.sections)}]


def in_words(sections: Sequence[Section], most: int = MOST_LISTED) -> str:
    """Sections by the kind of damage: blank 4, 17-19; shifted 30."""
    listed = sections[:most]
    kinds = list(dict.fromkeys(section.damage for section in listed))
    parts = [
        f"{kind} {runs([each.number for each in listed if each.damage == kind])}" for kind in kinds
    ]
    left_out = len(sections) - len(listed)
    return "; ".join(parts) + (f"; and {left_out} more" if left_out else "")


def runs(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, with runs as first-last.

    >>> runs([1, 4, 5, 6, 9])
    '1, 4-6, 9'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]
    return ", ".join(words)


def _patch(look: Look) -> Findings:
    if look.config is None:
        return []
    patch, shape = look.config.data.patch_size, look.facts.shape
    if all(p <= n for p, n in zip(patch, shape)):
        return []
    within = math.prod(min(p, n) for p, n in zip(patch, shape)) / math.prod(patch)
    return [{"patch": patch, "shape": shape, "mirrored": f"{1 - within:.0%}"}]


def _lengths(size: Sequence[float] | None) -> str:
    return " x ".join(f"{length:g}" for length in size or ())


CHECKS = (
    Check(
        "image is labels",
        "image",
        "how many voxels have the value of their neighbour",
        "the image {image} looks like labels: neighbouring voxels mostly have the same value; are "
        "image and labels exchanged?",
        _image_is_labels,
    ),
    Check(
        "labels are an image",
        "labels",
        "how many voxels have the label of their neighbour",
        "the labels {labels} look like an image: most neighbouring voxels have different ones "
        "({most:,} in one patch); are image and labels exchanged?",
        _labels_are_image,
    ),
    Check(
        "axis order",
        "image",
        "along which axis grey values and labels change fastest, and where voxels are longest",
        "the voxel size of {image} ({size} nm, axes {axes}) says that sections lie across "
        "{stated}, but they seem to lie across {seen}: {how}; are {flags} right?",
        _axes,
    ),
    Check(
        "voxel size",
        "image",
        "whether grey values change faster along one axis where no voxel size says why",
        "the voxels of {image} seem to be longer along {seen} ({how}), but {stated}; {flag} says "
        "it in nm",
        _voxel_size,
    ),
    Check(
        "labels in other axes",
        "labels",
        "whether image and labels change fastest along the same axis",
        "sections of the image {image} lie across {of_image}, those of the labels {labels} across "
        "{of_labels}: are the axes of the labels in another order?",
        _labels_in_other_axes,
    ),
    Check(
        "grey range",
        "image",
        "the percentiles of the mapped grey values",
        "the grey values of {image}, mapped from {start} to {stop}, {what}; {flag} would fit them",
        _range,
    ),
    Check(
        "unlike training",
        "image",
        "how far the mapped grey values are from those of the training volumes",
        "the grey values of {image}, mapped from {low} to {high}, are {shift} of their range away "
        "from those of the training volume {nearest}: is it inverted, or should {flag} be named?",
        lambda look: unlike_training(look.facts, look.training, look.flag),
    ),
    Check(
        "inverted",
        "labels",
        "whether the borders of objects are dark or bright, as in the first training volume",
        "the borders of objects in {image} are {here} than the rest, those in the training volume "
        "{nearest} {there}: is one of them inverted?",
        _inverted,
    ),
    Check(
        "damaged sections",
        "image",
        "brightness, contrast, detail and likeness of neighbouring sections",
        "{count} sections of {image} look damaged ({axis}: {which})",
        _sections,
    ),
    Check(
        "labels shifted",
        "labels",
        "the correlation of the image with the borders of objects, for shifts of the labels",
        "the labels {labels} would follow the image better if moved by {shift} voxels (correlation "
        "{best} instead of {now}): are they shifted?",
        _shifted,
    ),
    Check(
        "labels unrelated",
        "labels",
        "the same correlation with the labels mirrored and transposed",
        "the borders of the labels {labels} do not follow the image (correlation {now}): {advice}",
        _unrelated,
    ),
    Check(
        "unlabelled planes",
        "labels",
        "planes without any object that show tissue",
        "the labels {labels} are background on whole planes where the image shows tissue "
        "({axis}: {planes}): are these unlabelled? -1 or a mask says so",
        _empty_planes,
    ),
    Check(
        "unlabelled objects",
        "run",
        "background as wide as the objects, where objects touch elsewhere",
        "{share} of the labels {labels} are background as wide as the objects, with tissue in it: "
        "is it unlabelled? -1 or a mask says so",
        _open_background,
    ),
    Check(
        "negative ids",
        "labels",
        "the lowest id",
        "the labels {labels} hold negative ids, the lowest is {lowest}: all below 0 is unlabelled, "
        "and carries no loss and no score; number objects from 1, and say -1 for unlabelled",
        _negative,
    ),
    Check(
        "single object",
        "run",
        "the number of ids",
        "{labels} holds a single object: affinities learn to separate objects; for a mask take "
        "--target.kind binary --model.out-channels 1",
        _single,
    ),
    Check(
        "tiny objects",
        "run",
        "the sizes of objects, and voxels that differ from all their neighbours",
        "the labels {labels} hold specks: {what}; were they resized, or compressed with loss?",
        _tiny,
    ),
    Check(
        "giant object",
        "run",
        "the share of the largest object",
        "the object {id} takes {share} of the labelled voxels of {labels}: is it background, or "
        "many objects merged?",
        _giant,
    ),
    Check(
        "same ids",
        "run",
        "the ids of several labels of one image",
        "{first} and {second} share {count} ids, which are taken for the same objects: number "
        "those of one anew if they are not",
        _same_ids,
    ),
    Check(
        "patch too large",
        "run",
        "the patch and the volume",
        "patches of {patch} are larger than {image} of {shape}: {mirrored} of each is mirrored and "
        "without labels; a smaller --data.patch-size avoids that",
        _patch,
    ),
)
