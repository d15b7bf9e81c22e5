"""Public data that some tests read: below $PYTC_DATA, or data/ beside the tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [Path(folder) for folder in (os.environ.get("PYTC_DATA"), ROOT / "data") if folder]


def public_data(name: str) -> Path | None:
    """The folder of a data set, or None where it is not on this machine."""
    found = [folder / name for folder in FOLDERS if (folder / name).is_dir()]
    return found[0].resolve() if found else None


def needs(name: str):
    """A mark: the test is skipped where the data set is not on this machine."""
    reason = f"the data set {name} is neither in $PYTC_DATA nor in data/"
    return pytest.mark.skipif(public_data(name) is None, reason=reason)
