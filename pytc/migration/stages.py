"""YAML of PyTorch Connectomics with `_base_` files, profiles and stages, as one table.

A file may name others as its `_base_`, pick parts of them by `profile`, and write each section for
all stages (`default`) or for one (`train`, `test`). What is left is one table: what training reads
for the model, the data and the optimization, what testing reads for inference and decoding.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytc.checks import require
from pytc.yaml_files import read_yaml

STAGES = ("default", "train", "test", "tune")
TRAINED = ("system", "model", "data", "optimization", "monitor")
TESTED = ("inference", "decoding", "evaluation")
# registry of profiles, the name that picks one, and the table that it fills; in this order
PROFILES = (
    ("pipeline_profiles", "pipeline_profile", ""),
    ("system_profiles", "system.profile", "system"),
    ("arch_profiles", "model.arch.profile", "model"),
    ("arch_profiles", "arch_profile", "model"),
    ("augmentation_profiles", "data.augmentation.profile", "data.augmentation"),
    ("dataloader_profiles", "data.dataloader.profile", "data.dataloader"),
    ("optimizer_profiles", "optimization.profile", "optimization"),
    ("loss_profiles", "model.loss.profile", "model.loss"),
    ("label_profiles", "data.label_transform.profile", "data.label_transform"),
    ("activation_profiles", "inference.model.activation_profile", "inference.model"),
)
TEMPLATES = "decoding_templates"


def read_with_bases(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The table of a YAML file above those of its `_base_` files.

    ValueError if a file is missing, or is its own base.
    """
    require(path.resolve() not in below, f"{path} not to be its own _base_", path.name)
    content = read_yaml(path)
    bases = content.pop("_base_", None) or []
    merged: dict[str, Any] = {}
    for name in [bases] if isinstance(bases, str) else bases:
        base = path.parent / name
        if not base.is_file():
            raise ValueError(
                f"expected the file {base}, which {path} names as its _base_; migrate within the "
                "clone that the config belongs to"
            )
        merged = merge(merged, read_with_bases(base, (*below, path.resolve())))
    return merge(merged, content)


def merge(first: Any, second: Any) -> Any:
    """Two tables as one; where both have a value, the second one's."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return copy.deepcopy(second)
    merged = dict(first)
    for name, value in second.items():
        merged[name] = merge(first[name], value) if name in first else copy.deepcopy(value)
    return merged


def resolve_stages(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """One table of what training and testing read, and the profiles that no file defines.

    Returns:
        The table. `test.data` holds what is named for testing; the section `tune` is kept.
        (selector, name) of each profile that is missing.
    """
    registries = {
        name: value
        for name, value in content.items()
        if name.endswith("_profiles") or name == TEMPLATES
    }
    common = {
        name: value
        for name, value in content.items()
        if name not in (*registries, *STAGES, "shared")
    }
    missing: list[tuple[str, str]] = []
    shared = merge(content.get("shared") or {}, content.get("default") or {})
    common = _with_profiles(merge(common, shared), registries, missing)
    train, test = (
        _with_profiles(content.get(stage) or {}, registries, missing) for stage in STAGES[1:3]
    )
    trained, tested = merge(common, train), merge(common, test)
    result = {name: value for name, value in common.items() if name not in (*TRAINED, *TESTED)}
    result |= {name: trained[name] for name in TRAINED if name in trained}
    result |= {name: tested[name] for name in TESTED if name in tested}
    result["test"] = {"data": test["data"]} if test.get("data") else {}
    if content.get("tune"):
        result["tune"] = content["tune"]
    _expand_templates(result, registries.get(TEMPLATES) or {}, missing)
    return result, missing


def _with_profiles(
    stage: Mapping[str, Any], registries: Mapping[str, Any], missing: list[tuple[str, str]]
) -> dict[str, Any]:
    """The sections of a stage; what a profile says stands below what they say themselves."""
    result = dict(copy.deepcopy(stage))
    for registry, selector, target in PROFILES:
        name = _pop(result, selector)
        if name is None:
            continue
        profile = (registries.get(registry) or {}).get(name)
        if profile is None:
            missing.append((selector, name))
            continue
        for part in reversed(target.split(".") if target else []):
            profile = {part: profile}
        result = merge(profile, result)
    return result


def _pop(table: Any, dotted: str) -> Any:
    """Take a value out of nested tables; None if it is not there."""
    *tables, last = dotted.split(".")
    for name in tables:
        table = table.get(name) if isinstance(table, Mapping) else None
    return table.pop(last, None) if isinstance(table, dict) else None


def _expand_templates(
    result: dict[str, Any], templates: Mapping[str, Any], missing: list[tuple[str, str]]
) -> None:
    """Put the steps of a decoding template where a step names it."""
    decoding = result.get("decoding")
    steps = decoding.get("steps") if isinstance(decoding, Mapping) else decoding
    expanded: list[Any] = []
    for step in steps if isinstance(steps, list) else []:
        name = step.get("template")
        if name is None:
            expanded.append(step)
        elif name not in templates:
            missing.append(("decoding.steps.template", name))
        else:
            named = {key: value for key, value in step.items() if key != "template"}
            own = templates[name]["steps"]
            expanded += [merge(own[0], named)] if named else own
    if isinstance(steps, list):
        result["decoding"] = {"steps": expanded}
