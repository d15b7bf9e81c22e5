"""`pytc migrate`: a config of another program becomes a preset, with notes on what is lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytc.checks import require
from pytc.config import Config
from pytc.config_files import load_config_file
from pytc.migration import banis, connectomics, connectomics_tables, nnunet, yacs
from pytc.migration.draft import Draft, Settings
from pytc.migration.preset import preset_source
from pytc.migration.stages import merge, read_with_bases, resolve_stages
from pytc.script import command_line
from pytc.yaml_files import read_yaml


@dataclass(frozen=True)
class Migration:
    """What a config of another program has become."""

    peer: str  # whose config it was
    config: Config
    draft: Draft


def read_source(
    source: str, base: Path | None = None, configuration: str | None = None
) -> Migration:
    """Recognise the dialect of a config, and translate it.

    Args:
        source: a YAML or JSON file, a job script, or a command line that calls BANIS.py.
        base: a YACS file that `source` builds upon (--config-base).
        configuration: of nnU-Net's plans; by default 3d_fullres.

    Raises:
        ValueError: the dialect is unknown, or the file cannot be read.
    """
    path = Path(source)
    if not path.is_file():
        require(banis.SCRIPT in source, f"a file, or a command that calls {banis.SCRIPT}", source)
        return _banis(banis.read_command(source))
    if path.suffix in (".json", ".pkl"):
        draft = nnunet.translate(nnunet.read_plans(path), configuration or nnunet.FULL_RESOLUTION)
        return Migration(nnunet.PEER, _config(draft, path), draft)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path, base)
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        text = ""
    require(
        banis.SCRIPT in text,
        f"a YAML file, the plans.json of nnU-Net, or a script that calls {banis.SCRIPT}",
        source,
    )
    return _banis(banis.read_command(text))


def fit_to_network(made: Migration) -> Migration:
    """The migration with patches and windows of a size that its network takes.

    The network is built, without memory for its weights. ValueError if it cannot be built.
    """
    import torch

    from pytc.models import build_model

    with torch.device("meta"):
        network = build_model(made.config, quiet=True)
    draft = made.draft
    for field in ("data.patch_size", "inference.window", "model.image_size"):
        size = draft.fields.get(field)
        if size is None:
            continue
        valid = network.nearest_valid_size(size)
        if valid != size:
            draft.set(field, valid, draft.origins.get(field, ""))
            draft.change(draft.origins.get(field, field), size, f"the network takes {valid}")
    return Migration(made.peer, draft.config(), draft)


def migrate(
    source: str,
    output: Path | None = None,
    base: Path | None = None,
    configuration: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, str]:
    """Write the preset that `source` becomes.

    Args:
        source: as for `read_source`; `base` and `configuration`, too.
        output: the file to write; by default NAME.py here, after the name of the config.
        overwrite: whether a file of that name may be replaced.

    Returns:
        The preset, which loads by `--config`, and a report that lists what has no counterpart.
    """
    made = fit_to_network(read_source(source, base, configuration))
    name = "".join(c if c.isalnum() or c in "_-" else "_" for c in made.config.name)
    path = output or Path(f"{name}.py")
    require(path.suffix == ".py", "a Python file (.py) for --output", str(path))
    require(overwrite or not path.exists(), "--overwrite to replace a file", str(path))
    remarks = {
        "No counterpart; left out:": [note.line() for note in made.draft.missing],
        "Not quite the same; please look:": [note.line() for note in made.draft.changed],
    }
    remarks = {heading: notes for heading, notes in remarks.items() if notes}
    title = (
        f"{made.config.name}: migrated from a config of {made.peer} by `pytc migrate`.\n\n"
        "The comment of a line names the setting that it comes from.\n"
    )
    path.write_text(preset_source(made.config, title, made.draft.origins, remarks))
    written = load_config_file(path if path.is_absolute() else Path.cwd() / path)
    assert written == made.config, f"{path} does not say what was translated"
    lines = [f"{made.peer} -> {path}: {len(made.draft.fields)} settings"]
    for heading, notes in remarks.items():
        lines += ["", heading, *(f"  {note}" for note in notes)]
    trial = command_line("train", ["--config", str(path), "--loop.max-steps", "10"])
    lines += ["", f"Try it: {trial}"]
    return path, "\n".join(lines)


def _yaml(path: Path, base: Path | None) -> Migration:
    """A YAML file of any of the dialects."""
    content = read_yaml(path)
    if "params" in content:
        return _banis(*banis.read_params(content))
    if base is not None:
        content = merge(read_yaml(base), content)
    if any(section in content for section in yacs.SECTIONS):
        draft = yacs.translate(Settings(content, yacs.DEFAULTS))
        return Migration(yacs.PEER, _config(draft, path), draft)
    require(base is None, "--base with a YACS config alone", str(path))
    content = read_with_bases(path)
    known = any(section in content for section in connectomics.SECTIONS)
    require(known, "a config of PyTorch Connectomics, or BANIS's config.yaml", str(path))
    stated, missing = resolve_stages(content)
    draft = connectomics.translate(Settings(stated, connectomics_tables.DEFAULTS), missing)
    return Migration(connectomics.PEER, _config(draft, path), draft)


def _banis(stated: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> Migration:
    draft = banis.translate(Settings(stated, banis.DEFAULTS), others)
    return Migration(banis.PEER, draft.config(), draft)


def _config(draft: Draft, path: Path) -> Config:
    try:
        return draft.config()
    except ValueError as error:
        raise ValueError(f"{path} makes no config of pytc: {error}") from error
