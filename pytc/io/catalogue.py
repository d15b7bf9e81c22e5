"""The table of public data sets as text: for the command line, and for docs/data.md."""

from pytc.checks import suggest
from pytc.io.datasets import BY_HAND, DATASETS, find, stored_at

HEAD = ("name", "voxels, nm", "download", "licence", "presets", "what it is")


def rows() -> list[tuple[str, ...]]:
    """A row for each data set, under HEAD."""
    return [
        (
            name,
            " x ".join(f"{length:g}" for length in dataset.voxel_size),
            dataset.size,
            dataset.licence,
            ", ".join(dataset.presets) or "-",
            dataset.about,
        )
        for name, dataset in DATASETS.items()
    ]


def markdown() -> str:
    """The table of docs/data.md."""
    lines = [HEAD, ("---",) * len(HEAD), *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def citations() -> str:
    """The list of docs/data.md: each citation, with the sets that it is for."""
    sets: dict[str, list[str]] = {}
    for name, dataset in DATASETS.items():
        sets.setdefault(dataset.citation, []).append(name)
    return "".join(f"- {citation} ({', '.join(names)})\n" for citation, names in sets.items())


def list_datasets() -> str:
    """A line for each data set: its name, what it is, and how much of it is on this machine."""
    width = max(map(len, DATASETS))
    lines = [f"{name:{width}}  {dataset.about}{_here(name)}" for name, dataset in DATASETS.items()]
    lines += [f"{name:{width}}  not downloaded: {how}" for name, how in BY_HAND.items()]
    return "\n".join([*lines, "", "pytc data show NAME says more; pytc data fetch NAME gets it."])


def _here(name: str) -> str:
    folder = find(name)
    if folder is None:
        return ""
    splits = DATASETS[name].splits
    finished = sum(stored_at(name, split, folder).exists() for split in splits)
    return f" [{finished} of {len(splits)} in {folder}]"


def describe(name: str) -> str:
    """All that is known of a data set; ValueError if there is none of that name."""
    if name in BY_HAND:
        return f"{name}: not downloaded; {BY_HAND[name]}"
    if name not in DATASETS:
        raise ValueError(f"expected a data set, got {name!r}{suggest(name, DATASETS)}")
    dataset = DATASETS[name]
    lines = [
        f"{name}: {dataset.about}{_here(name)}",
        f"voxel size  {' x '.join(f'{length:g}' for length in dataset.voxel_size)} nm "
        f"(axes {dataset.axes})",
        f"download    {dataset.size}",
        f"licence     {dataset.licence}",
        f"cite        {dataset.citation}",
        f"presets     {', '.join(f'configs/{each}.py' for each in dataset.presets) or 'none'}",
        f"splits      {', '.join(dataset.splits)}",
    ]
    for source in dataset.downloads:
        checksum = source.checksum or "no checksum published: noted at the first download"
        lines.append(f"file        {source.url} ({checksum})")
    if dataset.is_streamed:
        first = next(iter(dataset.splits.values()))
        lines.append(f"streamed    {first.image} and so on")
    if dataset.notes:
        lines.append(f"note        {dataset.notes}")
    return "\n".join(lines)
