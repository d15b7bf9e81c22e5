"""The seeded watershed by its earlier name, until every caller has taken the new one."""

from pytc.segmentation.watershed import seeded_watershed as grow

__all__ = ["grow"]
