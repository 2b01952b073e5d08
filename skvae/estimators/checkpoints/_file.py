"""The file of a checkpoint: an .npz archive of plain arrays, one of which is a header in JSON.

NumPy opens it with `np.load`. It is written beside its place and then renamed, so that there is always a whole one.
What is read is never trusted: sizes are compared with that of the file before memory is taken, and objects are refused.
"""

import contextlib
import functools
import glob
import io
import json
import math
import os
import threading
import zipfile

import numpy as np

FORMAT, VERSION = "skvae checkpoint", 1
_LARGEST_HEADER = 2**26  # bytes
_KINDS = "fiub"  # of dtypes


class UnreadableFileError(Exception):
    """Raised for a file that is no checkpoint, or no whole one."""


def temporary_of(path):
    """The name under which this thread of this process writes the file; threads of a search may fit alike."""
    return f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"


def write(path, header, states):
    """Write trees of arrays, and a dict of plain values, in place of what is there.

    Parameters
    ----------
    path : str
    header : dict
        What JSON takes.
    states : dict
        Dicts and lists of C-contiguous arrays, numbers, short strings and None.
    """
    arrays = []
    header = {"format": FORMAT, "version": VERSION, **header, "states": _numbered(states, arrays)}
    told = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, array in [("header", told), *((f"a{i}", array) for i, array in enumerate(arrays))]:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, version=(1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    _sync_folder(path)


def remove(path):
    """Remove the file, if there is one, and what processes that were killed while they wrote it have left."""
    for left in [path, *glob.glob(f"{glob.escape(path)}.*.tmp")]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(left)


def _sync_folder(path):
    """Let the new name reach the disk, where the system has a way."""
    with contextlib.suppress(OSError):
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _numbered(tree, arrays):
    """The tree with numbers in place of its arrays, which are added to a list."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {"array": len(arrays) - 1}
    if isinstance(tree, dict):
        return {"dict": {key: _numbered(each, arrays) for key, each in tree.items()}}
    if isinstance(tree, list):
        return [_numbered(each, arrays) for each in tree]
    return tree


def read(path, check):
    """Read what `write` has written.

    Parameters
    ----------
    path : str
    check : callable
        It is given the header before the arrays are read, and may raise an error.

    Returns
    -------
    header : dict
    states : dict

    Raises
    ------
    UnreadableFileError
        If the file is no checkpoint, of another version, cut off, or damaged.
    """
    with _opened(path) as (archive, size, header):
        check(header)
        read_once = functools.cache(lambda number: _read_array(archive, f"a{int(number)}", size))
        states = _filled(header.pop("states"), read_once)
        if not isinstance(states, dict):
            raise UnreadableFileError("its states are none")
        return header, states


def header_of(path):
    """The header of a checkpoint alone, as of `read`."""
    with _opened(path) as (_, _, header):
        return header


@contextlib.contextmanager
def _opened(path):
    """A block with the archive of a checkpoint, the size of the file, and its header."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            header = json.loads(_read_array(archive, "header", min(size, _LARGEST_HEADER)).tobytes())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise UnreadableFileError("its header is another")
            if header.get("version") != VERSION:
                raise UnreadableFileError(f"its format has version {header.get('version')!r}, and not {VERSION}")
            yield archive, size, header
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RecursionError) as error:
        raise UnreadableFileError(str(error)) from error
    except (KeyError, TypeError, ValueError, EOFError, OverflowError, AttributeError) as error:
        raise UnreadableFileError(f"{type(error).__name__}: {error}") from error


def _read_array(archive, name, size):
    """Read one array, of no more bytes than the file has."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size == entry.compress_size <= size:
        raise UnreadableFileError(f"its entry {entry.filename} has {entry.file_size} bytes")
    data = bytearray(archive.read(entry))  # the archive compares checksums
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise UnreadableFileError(f"its entry {entry.filename} has another format")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    if by_column or dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise UnreadableFileError(f"its entry {entry.filename} is declared as {dtype} of shape {shape}")
    return np.frombuffer(memoryview(data)[file.tell() :], dtype).reshape(shape)


def _filled(tree, array):
    """The tree with arrays in place of their numbers."""
    if isinstance(tree, dict):
        if tree.keys() == {"array"}:
            return array(tree["array"])
        return {key: _filled(each, array) for key, each in tree["dict"].items()}
    if isinstance(tree, list):
        return [_filled(each, array) for each in tree]
    return tree
