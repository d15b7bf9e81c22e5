"""Hand a volume over to other programs: OME-Zarr, neuroglancer's precomputed, TIFF and HDF5."""
