"""pytc: from electron-microscope volumes of brain tissue to neurons."""

__version__ = "0.1.0"
