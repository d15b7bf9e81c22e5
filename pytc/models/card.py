"""The model card: what a network was trained on, as plain types that travel with its weights.

`pytc models export` writes it into the metadata of the .safetensors file, `pytc models show` prints
it. It loads no torch.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytc import __version__
from pytc.config import Config
from pytc.target_kinds import target_kind

Card = dict[str, Any]  # plain types, as JSON holds them
# Facts of a training volume that a card keeps, see `pytc.data.facts`.
OF_A_VOLUME = ("image", "axes", "shape", "voxel_size", "grey_range", "n_labels")
# What a metrics.json says of how its scores were made.
SETTINGS = ("threshold", "method", "min_size", "merge_tolerance_nodes")
NOT_SCORES = ("step", "time", "val/threshold")


def make_card(
    config: Config,
    step: int,
    volumes: Sequence[Mapping[str, Any]],
    parent: Card | None,
    checkpoint: Path,
    weights: str,
) -> Card:
    """The card of a checkpoint.

    Args:
        config: of the run, resolved.
        step: optimizer steps that were taken.
        volumes: facts of the training volumes; empty if the checkpoint has none.
        parent: the card of the weights from which the training started, if any.
        checkpoint: the file. If it lies in the folder of a run, the scores that the run notes for
            these weights are in the card.
        weights: their digest, see `pytc.models.checkpoint.weights_digest`.
    """
    network, target = config.model, config.target
    kind = target_kind(target.kind)
    run = checkpoint.resolve().parent.parent
    in_a_run = checkpoint.resolve().parent.name == "checkpoints" and (run / "config.json").is_file()
    version = None
    scores: list[dict[str, Any]] = []
    if in_a_run:
        environment = run / "environment.json"
        if environment.is_file():
            version = json.loads(environment.read_text())["pytc"]
        scores = [*training_scores(run, step), *evaluated_scores(run, weights)]
    return _plain(
        {
            "name": config.name,
            "licence": None,
            "citation": None,
            "trained_by": version,
            "exported_by": __version__,
            "step": step,
            "architecture": network.architecture,
            "network_voxel_size": network.voxel_size,
            "target": target.kind,
            "offsets": target.offsets if kind.per_offset else None,
            "patch_size": config.data.patch_size,
            "volumes": [{name: row.get(name) for name in OF_A_VOLUME} for row in volumes],
            "validation": [volume.image for volume in config.data.validation],
            "scores": scores,
            "parent": parent,
        }
    )


def training_scores(run: Path, step: int) -> list[dict[str, Any]]:
    """The validation scores of one step, from log.jsonl and validation.jsonl of a run."""
    scores: dict[str, float] = {}
    settings: dict[str, Any] = {}
    for name in ("log.jsonl", "validation.jsonl"):
        path = run / name
        if not path.is_file():
            continue
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["step"] != step:
                continue
            of_row = {key: value for key, value in row.items() if key.startswith("val/")}
            if "val/threshold" in of_row:
                settings["threshold"] = of_row["val/threshold"]
            scores |= {key: of_row[key] for key in of_row if key not in NOT_SCORES}
    if not scores:
        return []
    return [{"volume": None, "from": "training", "settings": settings, "scores": scores}]


def evaluated_scores(run: Path, weights: str) -> list[dict[str, Any]]:
    """What the last evaluation of each volume of a run says, with its settings.

    An evaluation of a prediction by other weights, or by ones that it does not name, is left out.
    """
    found = []
    for path in sorted(run.glob("evaluation/*/metrics.json")):
        metrics = json.loads(path.read_text())
        if metrics.get("weights") != weights:
            continue
        settings = {name: metrics[name] for name in SETTINGS if name in metrics}
        shown = {
            name: value if math.isfinite(value) else None
            for name, value in metrics.items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in SETTINGS
        }
        found.append(
            {
                "volume": metrics.get("image") or path.parent.name,
                "from": "evaluate",
                "chosen_by": metrics.get("metric"),
                "settings": settings,
                "scores": shown,
            }
        )
    return found


def differences_to_weights(
    card: Card, config: Config, volumes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What a training that starts from weights does otherwise than the training of these weights.

    Args:
        card: of the weights.
        config: of the training that starts, resolved.
        volumes: facts of its training volumes.

    Returns:
        A line for each difference: target, offsets, axes, voxel size (by more than 1%), grey range.
    """
    kind = target_kind(config.target.kind)
    here: Card = {"target": config.target.kind, "offsets": None}
    if kind.per_offset:
        here["offsets"] = [list(offset) for offset in config.target.offsets]
    lines = [
        f"{name}: {card[name]} in the weights, {here[name]} here"
        for name in ("target", "offsets")
        if card[name] != here[name]
    ]
    if not card["volumes"] or not volumes:
        return lines
    # all volumes of a run have the same axes, and voxels of about the same size
    theirs, ours = card["volumes"][0], volumes[0]
    if theirs["axes"] != ours["axes"]:
        lines.append(f"axes: {theirs['axes']} in the weights, {ours['axes']} here")
    sizes = theirs["voxel_size"], ours["voxel_size"]
    if not _about_equal(*sizes):
        lines.append(f"voxel size: {_nm(sizes[0])} in the weights, {_nm(sizes[1])} here")
    ranges = [
        sorted({tuple(row["grey_range"]) for row in rows}) for rows in (card["volumes"], volumes)
    ]
    if ranges[0] != ranges[1]:
        shown = [", ".join(_joined(each, " to ") for each in found) for found in ranges]
        lines.append(f"grey values that become 0 and 1: {shown[0]} in the weights, {shown[1]} here")
    return lines


def _about_equal(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    """Whether two voxel sizes differ by at most 1% along each axis; two unknown ones are equal."""
    if one is None or other is None:
        return one is other
    return all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(one, other, strict=True))


def _nm(voxel_size: Sequence[float] | None) -> str:
    return "unknown" if voxel_size is None else f"{_joined(voxel_size, ' x ')} nm"


def describe(card: Card) -> str:
    """The card as lines to read: the figures that decide, each with its unit."""
    lines = [f"{card['name']}: {card['architecture']}, {card['step']:,} steps"]
    by = card["trained_by"] or "unknown"
    lines.append(f"version: trained by pytc {by}, exported by {card['exported_by']}")
    lines += [f"{name}: {card[name] or 'not given'}" for name in ("licence", "citation")]
    target = card["target"]
    if card["offsets"]:
        target += f", offsets {' '.join(_joined(offset, ',') for offset in card['offsets'])}"
    lines.append(f"target: {target}")
    lines.append(f"patch: {_joined(card['patch_size'], ' x ')} voxels")
    for volume in card["volumes"]:
        size = _nm(volume["voxel_size"])
        shape, grey = _joined(volume["shape"], " x "), _joined(volume["grey_range"], " to ")
        lines.append(
            f"trained on: {volume['image']}, {volume['axes']} {shape}, voxels {size}, grey {grey}"
        )
    if not card["volumes"]:
        lines.append("trained on: unknown")
    lines += [f"validated on: {image}" for image in card["validation"]]
    for row in card["scores"]:
        values = ", ".join(f"{name} {_number(value)}" for name, value in row["scores"].items())
        settings = ", ".join(f"{name} {_number(value)}" for name, value in row["settings"].items())
        where = row["volume"] or "validation volumes, during training"
        at = f" ({settings})" if settings else ""
        lines.append(f"scores of {where}{at}: {values}")
    if not card["scores"]:
        lines.append("scores: none")
    if card["parent"]:
        lines.append(f"started from: {card['parent']['weights']}")
        if card["parent"]["card"]:
            lines += [f"    {line}" for line in describe(card["parent"]["card"]).splitlines()]
    return "\n".join(lines)


def _joined(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:g}" for value in values)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(content: Card) -> Card:
    """The card as it is read back: tuples become lists."""
    plain: Card = json.loads(json.dumps(content))
    return plain
