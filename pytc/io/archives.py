"""Archives from elsewhere, unpacked so that nothing is written outside of the folder."""

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from pytc.checks import require


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip into a folder, which appears when all of it is there.

    Raises:
        ValueError: the archive is damaged, or has a link, or a name that leads out of the folder;
            or it needs more space than the disk has.
    """
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as files:
            members = files.infolist()
            for member in members:
                _require_inside(archive, member)
            needed = sum(member.file_size for member in members)
            free = shutil.disk_usage(work).free
            require(needed < free, f"{needed} free bytes to unpack {archive}", free)
            for member in members:
                files.extract(member, work)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"expected a .zip archive in {archive}, got {error}") from error
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def _require_inside(archive: Path, member: zipfile.ZipInfo) -> None:
    """ValueError for a link, an absolute name or one with `..`."""
    name = member.filename
    windows = PureWindowsPath(name)
    leads_out = (
        PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
    )
    require(not leads_out, f"names inside of the folder in {archive}", name)
    kind = stat.S_IFMT(member.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
    require(plain, f"files and folders alone in {archive}", f"{name}, a link or a device")
