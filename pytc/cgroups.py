"""The limits that Linux control groups (cgroups, version 1 and 2) set for this process.

Containers and Slurm limit a process by them. A limit may stand in the group of the process or in
any group around it. Standard library only.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")  # where the groups are mounted
MEMBERSHIP = Path("/proc/self/cgroup")  # the groups of this process
# files with the limit of the memory and with what is used of it: version 2, version 1
MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def cpu_quotas(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[int]:
    """The whole CPU cores that each group allows, of the groups that set a limit."""
    quotas = []
    for folder in _groups("cpu", root, membership):
        words = _words(folder / "cpu.max")  # version 2: QUOTA PERIOD; the quota "max" is no limit
        if not words:  # version 1: a file for each; the quota -1 is no limit
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1"):
            quotas.append(int(words[0]) // int(words[1]))
    return quotas


def memory_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[tuple[int, int]]:
    """(limit, available) in bytes of each group that limits the memory.

    The page cache counts as available, since the kernel gives it up when memory is asked for.
    """
    limits = []
    for folder in _groups("memory", root, membership):
        for limit_file, usage_file in MEMORY_FILES:
            allowed = _words(folder / limit_file)
            used = _words(folder / usage_file)
            if allowed in ([], ["max"]) or used == []:
                continue
            unused = int(allowed[0]) - int(used[0]) + _page_cache(folder)
            limits.append((int(allowed[0]), max(0, unused)))
    return limits


def _page_cache(folder: Path) -> int:
    """Bytes of files that a group holds in memory and has not used lately."""
    words = _words(folder / "memory.stat")  # NAME VALUE NAME VALUE ...
    stat = dict(zip(words[::2], words[1::2]))
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """The folders of the group of this process and of the groups around it.

    controller: cpu or memory; version 1 has a tree of groups for each.
    """
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        tops = []
        if not controllers:  # version 2 has one tree for all controllers
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controller]
        for top in tops:
            folder = top / path.strip("/")
            for candidate in (folder, *folder.parents):
                if candidate.is_relative_to(top):
                    yield candidate


def _words(file: Path) -> list[str]:
    """The words of a file; none if the file does not exist."""
    return file.read_text().split() if file.is_file() else []
