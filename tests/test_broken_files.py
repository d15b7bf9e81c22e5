"""A file that is broken, or not on this machine, is one error that names it."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from pytc.io.skeleton import load_skeleton
from pytc.io.volume import create_volume, open_volume

VOXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 40), dtype=np.uint8)


def write_volume(path):
    """The voxels in the format that the name says; returns the files that hold it."""
    if path.suffix == ".png":
        Image.fromarray(VOXELS[0]).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, VOXELS, compression="zlib")
    elif path.suffix == ".n5":
        import tensorstore

        metadata = {"dimensions": VOXELS.shape, "blockSize": [16] * 3, "dataType": "uint8"}
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
        tensorstore.open({**spec, "metadata": metadata}, create=True).result()[...] = VOXELS
    else:
        with create_volume(path, VOXELS.shape, "uint8", chunks=(16, 16, 16)) as volume:
            volume[...] = VOXELS


@pytest.mark.parametrize("content", [b"", b"II*\x00", b"text", b"\x89HDF\r\n\x1a\n", b"\x00" * 64])
@pytest.mark.parametrize("name", ["v.tif", "v.h5", "v.npy", "slices/0.png", "slices/0.tif"])
def test_a_file_that_is_something_else(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    opened = path.parent if path.parent.name == "slices" else path
    with pytest.raises(ValueError, match=f"^expected .* in .*{path.name}"):
        open_volume(opened)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["v.tif", "v.h5", "v.npy", "0.png"])
def test_a_file_that_is_cut_off(tmp_path, name, keep):
    path = tmp_path / name
    write_volume(path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"^expected .*{tmp_path}"):
        open_volume(tmp_path if name.endswith(".png") else path)[...]


@pytest.mark.parametrize("name", ["v.zarr", "v.n5"])
def test_chunks_that_are_spoilt(tmp_path, name):
    write_volume(tmp_path / name)
    metadata = {".zarray", ".zattrs", "attributes.json"}
    for file in (tmp_path / name).rglob("*"):
        if file.is_file() and file.name not in metadata:
            file.write_bytes(b"spoilt")
    with pytest.raises(ValueError, match=f"^expected readable voxels in .*{name}"):
        open_volume(tmp_path / name)[...]


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"dimensions": 3}', '{"shape": []}'])
@pytest.mark.parametrize("name", ["v.zarr/.zarray", "v.zarr/zarr.json", "v.n5/attributes.json"])
def test_metadata_that_are_spoilt(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^expected .*{path.parent}"):
        open_volume(path.parent)


def test_a_data_set_of_a_foreign_kind(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["words"] = ["a", "b"]
    with pytest.raises(ValueError, match="v.h5"):
        open_volume(tmp_path / "v.h5")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off", b"\x80\x04\x95", b"\xff"])
@pytest.mark.parametrize("name", ["s.pkl", "s.npz", "s.swc"])
def test_skeletons_that_are_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name == "s.swc" and not content:
        pytest.skip("an empty SWC file is a skeleton without nodes")
    with pytest.raises(ValueError, match=f"expected .*{name}"):
        load_skeleton(tmp_path / name, voxel_size=(1, 1, 1))
