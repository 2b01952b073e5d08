"""fetch_movielens: four archive formats, the real data where it is at hand, and downloads without a network."""

import hashlib
import io
import urllib.error
import zipfile
from email.message import Message

import numpy as np
import pytest

from skvae.datasets import _movielens, fetch_movielens

RATINGS = [(7, 30, 5), (2, 10, 3), (7, 10, 1), (11, 20, 4), (2, 30, 2)]  # (user, movie, rating)
TITLES = {10: "Misérables, Les (1995)", 15: "Never rated (1990)", 20: "Plain (2000)", 30: 'The "Best", or: not (1999)'}


def lines(rows, separator, header=None, quote=False):
    rows = [
        [f'"{x.replace(chr(34), chr(34) * 2)}"' if quote and isinstance(x, str) else str(x) for x in r] for r in rows
    ]
    return "".join(f"{line}\n" for line in ([header] if header else []) + [separator.join(row) for row in rows])


def tiny_archive(version, ratings=RATINGS, readme="Usage licence: ask first."):
    """Return the bytes of an archive in the format of the version."""
    timed = [(*rating, 978300760 + int(2 * rating[2])) for rating in ratings]
    if version == "100k":
        files = {
            "u.data": lines(timed, "\t"),
            "u.item": lines([(i, t, "01-Jan", "", 0) for i, t in TITLES.items()], "|"),
        }
    elif version == "1m":
        files = {
            "ratings.dat": lines(timed, "::"),
            "movies.dat": lines([(i, t, "Drama") for i, t in TITLES.items()], "::"),
        }
    else:
        movies = lines([(i, t, "Drama") for i, t in TITLES.items()], ",", "movieId,title,genres", quote=True)
        files = {"ratings.csv": lines(timed, ",", "userId,movieId,rating,timestamp"), "movies.csv": movies}
    encoding = "latin-1" if version in ("100k", "1m") else "utf-8"
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"ml-{version}/{name}", text.encode(encoding))
        if readme:
            archive.writestr(f"ml-{version}/README{'' if encoding == 'latin-1' else '.txt'}", readme)
    return stored.getvalue()


VERSIONS = ["100k", "1m", "20m", "latest-small"]


@pytest.mark.parametrize("folder", [".", "movielens"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_format_is_read_from_where_the_user_put_it(tmp_path, version, folder):
    path = tmp_path / folder / f"ml-{version}.zip"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tiny_archive(version))  # not the official checksum: not asked for
    ratings = fetch_movielens(version, data_home=tmp_path, download_if_missing=False)
    assert ratings.data.toarray().tolist() == [[3, 0, 2], [1, 0, 5], [0, 4, 0]]
    assert ratings.data.dtype == np.float32
    assert ratings.times.toarray().tolist() == [[978300766, 0, 978300764], [978300762, 0, 978300770], [0, 978300768, 0]]
    assert ratings.times.dtype == np.int64
    assert ratings.user_ids.tolist() == [2, 7, 11]
    assert ratings.item_ids.tolist() == [10, 20, 30]
    assert ratings.item_names.tolist() == [TITLES[10], TITLES[20], TITLES[30]]
    assert ratings.filename == str(path)
    for words in ("5 ratings of 3 movies by 3 users", "no redistribution", "Harper", "Usage licence: ask first."):
        assert words in ratings.DESCR


def test_half_stars_and_an_absent_readme(tmp_path):
    (tmp_path / "ml-20m.zip").write_bytes(tiny_archive("20m", [(1, 10, 0.5), (1, 99, 3.5)], readme=None))
    ratings = fetch_movielens("20m", data_home=tmp_path)
    assert ratings.data.toarray().tolist() == [[0.5, 3.5]]
    assert ratings.item_names.tolist() == [TITLES[10], "movie 99"]


def test_movielens_1m_has_its_published_counts(ml_1m_path):
    ratings = fetch_movielens("1m", data_home=ml_1m_path.parent, download_if_missing=False)
    assert ratings.data.shape == (6040, 3706)
    assert np.unique(ratings.data.data, return_counts=True)[1].tolist() == [56_174, 107_557, 261_197, 348_971, 226_310]
    assert ((ratings.data >= 4).sum(1) >= 5).sum() == 6034
    assert ratings.item_names[ratings.data.astype(bool).sum(0).argmax()] == "American Beauty (1999)"
    assert "Misérables, Les (1995)" in ratings.item_names
    assert ratings.user_ids.tolist() == list(range(1, 6041))


def test_movielens_100k_has_its_published_counts(ml_100k_path):
    ratings = fetch_movielens(data_home=ml_100k_path.parent, download_if_missing=False)
    assert ratings.data.shape == (943, 1682)
    assert np.unique(ratings.data.data, return_counts=True)[1].tolist() == [6_110, 11_370, 27_145, 34_174, 21_201]
    assert ratings.item_names[ratings.data.astype(bool).sum(0).argmax()] == "Star Wars (1977)"
    row = ratings.data[[195]].toarray()[0]  # the first line of u.data: user 196 gives film 242 three stars
    assert (ratings.user_ids[195], row[241], ratings.item_names[241]) == (196, 3, "Kolya (1996)")


class Response(io.BytesIO):
    def __init__(self, content, length=None, breaks=None):
        super().__init__(content)
        self.breaks, self.headers = breaks, Message()
        if length is not None:
            self.headers["Content-Length"] = str(length)

    def read(self, *size):
        chunk = super().read(*size)
        if self.breaks is not None and not chunk:
            raise self.breaks
        return chunk


@pytest.fixture
def server(monkeypatch):
    """Answers in place of the network; `server.asked` lists the addresses."""

    class Server:
        asked, answer = [], None

        def __call__(self, url, timeout):
            self.asked.append(url)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    Server.asked = []
    server = Server()
    monkeypatch.setattr(_movielens.urllib.request, "urlopen", server)
    return server


def publish(monkeypatch, version, content):
    """Make this the official archive."""
    layout = _movielens._LAYOUTS[version]
    md5 = layout.md5 and hashlib.md5(content).hexdigest()
    monkeypatch.setitem(_movielens._LAYOUTS, version, layout._replace(md5=md5))


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_download_is_kept_and_not_repeated(tmp_path, monkeypatch, server, version):
    content = tiny_archive(version)
    publish(monkeypatch, version, content)
    server.answer = Response(content, length=len(content))
    first = fetch_movielens(version, data_home=tmp_path)
    again = fetch_movielens(version, data_home=tmp_path)
    assert server.asked == [f"https://files.grouplens.org/datasets/movielens/ml-{version}.zip"]
    assert (tmp_path / "movielens" / f"ml-{version}.zip").read_bytes() == content
    assert files_below(tmp_path) == [f"ml-{version}.zip"]
    assert (first.data != again.data).nnz == 0


CONTENT = tiny_archive("1m")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (urllib.error.URLError("no route to host"), "no route to host"),
        (TimeoutError("timed out"), "TimeoutError"),
        (Response(CONTENT[:-9], breaks=ConnectionResetError("reset by peer")), "reset by peer"),
        (Response(CONTENT[:-9], length=len(CONTENT)), f"closed after {len(CONTENT) - 9} of {len(CONTENT)} bytes"),
        (Response(b"<html>Log in to this network</html>"), "MD5 checksum is [0-9a-f]{32}, not the published c4d9eecf"),
    ],
)
def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, server, answer, message):
    server.answer = answer
    with pytest.raises(OSError, match=message) as failure:
        fetch_movielens("1m", data_home=tmp_path)
    for words in (
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        str(tmp_path),
        "put it there as ml-1m.zip",
    ):
        assert words in str(failure.value)
    assert files_below(tmp_path) == []


def test_a_page_in_place_of_the_unchecked_archive_is_refused(tmp_path, server):
    server.answer = Response(b"<html>Log in to this network</html>")
    with pytest.raises(OSError, match="not a zip archive"):
        fetch_movielens("latest-small", data_home=tmp_path)
    assert files_below(tmp_path) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, server):
    server.answer = Response(CONTENT, breaks=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_movielens("1m", data_home=tmp_path)
    assert files_below(tmp_path) == []


def test_without_permission_nothing_is_downloaded(tmp_path, server):
    with pytest.raises(OSError, match=r"Data not found: ml-20m\.zip.*download_if_missing=False"):
        fetch_movielens("20m", data_home=tmp_path, download_if_missing=False)
    assert server.asked == []


def without_titles():
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::2::3::4\n")
    return stored.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "BadZipFile"),
        (CONTENT[:200], "BadZipFile"),
        (CONTENT[:60] + bytes(8) + CONTENT[68:], "cannot be read"),
        (tiny_archive("1m", [(1, "x", 3)]), "ValueError"),
        (tiny_archive("1m", [("é", 1, 3)]), "cannot be read"),
        (without_titles(), r"KeyError.*movies\.dat"),
        (tiny_archive("100k"), r"ml-1m/ratings\.dat"),
    ],
)
def test_a_damaged_archive_is_named_and_kept(tmp_path, server, content, message):
    path = tmp_path / "ml-1m.zip"
    path.write_bytes(content)
    with pytest.raises(OSError, match=message) as failure:
        fetch_movielens("1m", data_home=tmp_path)
    assert str(path) in str(failure.value)
    assert "delete it to download it again" in str(failure.value)
    assert path.read_bytes() == content
    assert server.asked == []


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_an_archive_without_ratings_is_damaged(tmp_path):
    (tmp_path / "ml-1m.zip").write_bytes(tiny_archive("1m", []))
    with pytest.raises(OSError, match="holds no ratings"):
        fetch_movielens("1m", data_home=tmp_path)


def test_unknown_versions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="version must be one of '100k', '1m', '20m', 'latest-small', not '25m'"):
        fetch_movielens("25m", data_home=tmp_path)
