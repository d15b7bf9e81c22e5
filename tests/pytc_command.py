"""Where the command `pytc` is, for tests that run it: it need not be installed."""

from pathlib import Path

PYTC = Path(__file__).parent / "launchers" / "pytc"
