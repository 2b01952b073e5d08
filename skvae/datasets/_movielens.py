"""Download and reading of the MovieLens ratings (GroupLens, University of Minnesota)."""

import csv
import hashlib
import http.client
import io
import os
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

from ._interactions import to_interactions

_URL = "https://files.grouplens.org/datasets/movielens/{}.zip"
_TIMEOUT = 30  # seconds without a byte
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError, NotImplementedError, IndexError)


class _Layout(NamedTuple):
    md5: str | None  # of the official archive; latest-small is replaced from time to time
    ratings: str
    movies: str
    encoding: str
    delimiter: str  # of the ratings
    fields: tuple  # where user, item, rating and time stand in a line of them
    header: int  # lines before the first rating


# NumPy splits at single characters: at "::" every other field is empty.
_LAYOUTS = {
    "100k": _Layout("0e33842e24a9c977be4e0107933c0723", "u.data", "u.item", "latin-1", "\t", (0, 1, 2, 3), 0),
    "1m": _Layout("c4d9eecfca2ab87c1945afe126590906", "ratings.dat", "movies.dat", "latin-1", ":", (0, 2, 4, 6), 0),
    "20m": _Layout("cd245b17a1ae2cc31bb14903e1204af3", "ratings.csv", "movies.csv", "utf-8", ",", (0, 1, 2, 3), 1),
    "latest-small": _Layout(None, "ratings.csv", "movies.csv", "utf-8", ",", (0, 1, 2, 3), 1),
}

_DESCR = """\
MovieLens {version}
----------
Ratings of movies by users of https://movielens.org, collected by GroupLens Research at the University of Minnesota:
{n_ratings:,} ratings of {n_items:,} movies by {n_users:,} users. Rows are users, columns the movies with at least one
rating, both in the order of their ids; a rating lies between 0.5 and 5, and 0 stands for no rating.

Terms (the full text, where the archive has it, is below): for research; acknowledge the source; no redistribution
without permission; no commercial use without permission; no endorsement by the University may be implied.

F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM Transactions on
Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""


def fetch_movielens(version="100k", *, data_home=None, download_if_missing=True):
    """Load a MovieLens data set as a sparse users x items matrix, downloading it if necessary.

    The archive is read without unpacking. A downloaded archive is checked against the official checksum, and an
    incomplete download leaves no file. An archive that you put into the folder yourself is not checked.

    Parameters
    ----------
    version : {"100k", "1m", "20m", "latest-small"}, default="100k"
        The data set. In this order they have 943 users x 1,682 movies (5 MB to download), 6,040 x 3,706 (6 MB), 138,493
        x 26,744 (190 MB), and 610 x 9,724 in 2018 (1 MB). GroupLens renews the last from time to time. Reading takes a
        second per million ratings. Reading the 20 million needs about 2 GB of memory.
    data_home : str or path-like, default=None
        Folder of the archive. None takes scikit-learn's data folder, `~/scikit_learn_data`. ``ml-100k.zip`` (and so on)
        is searched there and in the subfolder "movielens". A download is stored in this subfolder.
    download_if_missing : bool, default=True
        Whether to download a missing archive. False raises an OSError instead.

    Returns
    -------
    ratings : Bunch
        With the attributes

        - data : csr_array of shape (n_users, n_items), float32, ratings between 0.5 and 5
        - times : csr_array with the same stored cells, int64, when each rating was given, in seconds since 1970-01-01
        - user_ids : int64 ndarray of shape (n_users,)
        - item_ids : int64 ndarray of shape (n_items,)
        - item_names : ndarray of str, shape (n_items,), title and year
        - DESCR : str, with the citation, the terms of use and the archive's README
        - filename : str, path of the archive

    Raises
    ------
    ValueError
        If `version` is none of these.
    OSError
        If the archive is missing and cannot or may not be downloaded, arrives damaged, or cannot be read.

    References
    ----------
    Harper and Konstan, "The MovieLens datasets: history and context", ACM TiiS 5(4), 2015.

    Examples
    --------
    >>> from skvae.datasets import fetch_movielens
    >>> ratings = fetch_movielens("1m")  # doctest: +SKIP
    >>> ratings.data.shape  # doctest: +SKIP
    (6040, 3706)
    >>> liked = ratings.data >= 4  # doctest: +SKIP
    """
    if version not in _LAYOUTS:
        raise ValueError(f"version must be one of {', '.join(map(repr, _LAYOUTS))}, not {version!r}.")
    path = _locate(f"ml-{version}", _LAYOUTS[version].md5, data_home, download_if_missing)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, version, path)
    except _DAMAGE as error:
        raise OSError(
            f"{path} cannot be read as the MovieLens archive ml-{version}.zip ({type(error).__name__}: {error}); "
            "delete it to download it again."
        ) from error


def _read(archive, version, path):
    layout = _LAYOUTS[version]
    with archive.open(f"ml-{version}/{layout.ratings}") as file:
        ratings = _read_ratings(file, layout)
    with archive.open(f"ml-{version}/{layout.movies}") as file:
        titles = _read_titles(file, layout)
    table = to_interactions(
        ratings["user"], ratings["item"], ratings["rating"], times=ratings["time"], duplicates="last"
    )
    names = np.array([titles.get(item, f"movie {item}") for item in table.item_ids.tolist()])
    counts = dict(zip(("n_users", "n_items"), table.data.shape, strict=True), n_ratings=table.data.nnz)
    description = _DESCR.format(version=version, **counts)
    for readme in (f"ml-{version}/{name}" for name in ("README", "README.txt", "README.html")):
        if readme in archive.namelist():
            description += "\n" + archive.read(readme).decode("utf-8", errors="replace").replace("\r\n", "\n")
            break
    return Bunch(
        data=table.data,
        times=table.times,
        user_ids=table.user_ids,
        item_ids=table.item_ids,
        item_names=names,
        DESCR=description,
        filename=str(path),
    )


def _read_ratings(file, layout):
    table = np.loadtxt(
        file,
        dtype=[("user", np.int64), ("item", np.int64), ("rating", np.float32), ("time", np.int64)],
        delimiter=layout.delimiter,
        usecols=layout.fields,
        skiprows=layout.header,
        comments=None,
        encoding="ascii",
        ndmin=1,
    )
    if len(table) == 0:
        raise ValueError(f"{layout.ratings} holds no ratings")
    return table


def _read_titles(file, layout):
    """Return {movie id: title}."""
    lines = io.TextIOWrapper(file, encoding=layout.encoding, newline="")
    if layout.movies.endswith(".csv"):  # titles with a comma stand in quotes
        rows = csv.reader(lines)
        next(rows, None)
    else:
        separator = "|" if layout.movies == "u.item" else "::"
        rows = (line.split(separator) for line in lines)
    return {int(row[0]): row[1] for row in rows if len(row) > 1}


# --- finding and downloading the archive ------------------------------------------------------------------------------


def _locate(name, md5, data_home, download_if_missing):
    """Return the path of the archive, after downloading it if need be."""
    home = Path(get_data_home(data_home))
    target = home / "movielens" / f"{name}.zip"
    for path in (home / target.name, target):
        if path.is_file():
            return path
    url = _URL.format(name)
    if not download_if_missing:
        raise OSError(
            f"Data not found: {target.name} is neither in {home} nor in {target.parent}, and "
            f"download_if_missing=False. Get it from {url}, or allow the download."
        )
    try:
        target.parent.mkdir(exist_ok=True)
        _download(url, md5, target)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{url} could not be downloaded to {target.parent} ({type(error).__name__}: {error}). Try again, or fetch "
            f"the file by other means and put it there as {target.name}."
        ) from error
    return target


def _download(url, md5, target):
    """Put the file at `url` in place whole, or leave nothing behind."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}.part_", delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                shutil.copyfileobj(response, part)
            part.close()
            _check_download(part.name, md5, response.headers.get("Content-Length"))
            os.replace(part.name, target)
        except BaseException:  # a KeyboardInterrupt too
            part.close()
            os.unlink(part.name)
            raise


def _check_download(path, md5, length):
    size = os.path.getsize(path)
    if length is not None and size != int(length):
        raise OSError(f"the connection closed after {size} of {length} bytes")
    if md5 is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise OSError(f"its MD5 checksum is {found}, not the published {md5}")
    elif not zipfile.is_zipfile(path):
        raise OSError("what arrived is not a zip archive")
