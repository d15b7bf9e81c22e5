"""An array on disk as its format describes it, before a voxel is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pytc.io.remote import Folder
from pytc.io.standards import Standard


class Stored(NamedTuple):
    """The array in a file or folder: its description, and how to open the voxels.

    shape: one length for each stored axis.
    dtype: as the format names it; NumPy understands it.
    attributes: all that is stored with the array.
    open: opens the voxels, as an object that is sliced like NumPy. Where the array has chunks, its
        argument is how many bytes of decoded chunks to keep; otherwise it has none.
    standard: what OME or ImageJ metadata state; the attributes come before it.
    has_chunks: whether the voxels are stored in chunks that are decoded one by one.
    can_be_extended: whether more can be written to the array.
    """

    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]
    open: Callable[..., Any]
    standard: Standard = Standard()
    has_chunks: bool = False
    can_be_extended: bool = False


class NewArray(NamedTuple):
    """An array that is to be written.

    path: where it will be when it is whole.
    dataset: its name in an HDF5 file.
    chunks: the voxels of a chunk along each axis, for formats that have chunks.
    compression: 1 (fast) to 9 (small) of zstd, or 0 for LZ4, for Zarr.
    """

    path: Folder
    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]
    dataset: str
    chunks: tuple[int, ...]
    compression: int = 1


@contextmanager
def expecting(what: str, *errors: type[Exception]) -> Iterator[None]:
    """A library's errors of these types as a ValueError that says what was expected."""
    try:
        yield
    except errors as error:
        raise ValueError(f"expected {what}, got {error}") from error


@contextmanager
def reading(what: str, path: str | Folder) -> Iterator[None]:
    """Any failure to read a file as a ValueError that names it; one that does already stays."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if str(error).startswith("expected") and str(path) in str(error):
            raise
        explains_itself = isinstance(error, ValueError | OSError) and str(error)
        got = error if explains_itself else f"{type(error).__name__}: {error}"
        raise ValueError(f"expected {what} in {path}, got {got}") from error
