"""Sets of clicks that differ in density and shape: simulated, observed, and made from the files of the machine.

The sets from the machine's files (headers, modules, packages, manual pages) differ from one machine to the next, so
that figures on them can be repeated in kind only.
"""

import glob
import gzip
import os
import re
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from _protocol import SEED, Split, movielens

from skvae import datasets
from skvae.metrics import holdout_split


def core(X, least_users, least_items):
    """Ones where X is not zero, without rare items and short rows, which are dropped in turn until none is left."""
    X = sp.csr_array(X, dtype=np.float32)
    X.sum_duplicates()
    X.eliminate_zeros()
    X.data[:] = 1
    while True:
        shape = X.shape
        X = X[:, np.flatnonzero(np.bincount(X.indices, minlength=X.shape[1]) >= least_users)]
        X = X[np.flatnonzero(np.diff(X.indptr) >= least_items)]
        if X.shape == shape:
            return X


def from_lists(lists):
    """Ones where a list (a row) holds a name (a column, numbered as it first comes)."""
    columns = {}
    pairs = [
        (row, columns.setdefault(name, len(columns))) for row, names in enumerate(lists) for name in sorted(set(names))
    ]
    rows, ids = np.array(pairs).T
    return sp.csr_array((np.ones(len(rows), np.float32), (rows, ids)), shape=(len(lists), len(columns)))


def some_rows(X, n):
    """A random `n` of the rows, the same in every run."""
    return X[np.sort(np.random.RandomState(0).permutation(X.shape[0])[:n])]


def web_log():
    """Visitors of microsoft.com x areas of the site, one week of 1998 (UCI: anonymous-msweb.data)."""
    rows, columns, user = [], [], -1
    path = Path(os.environ["SKVAE_TEST_DATA"], "msweb", "anonymous-msweb.data.gz")
    for line in gzip.open(path, "rt", encoding="latin1"):
        kind, number = line.split(",")[:2]
        user += kind == "C"
        if kind == "V":
            rows.append(user)
            columns.append(int(number))
    return core(sp.csr_array((np.ones(len(rows)), (rows, columns))), 1, 2)


def texts(root, suffixes):
    """Texts of the files with one of the suffixes under a folder; copies of one file count once."""
    seen = set()
    for path in sorted(Path(root).rglob("*")):
        if path.suffix in suffixes and path.is_file() and not path.is_symlink():
            text = path.read_text(errors="replace")
            if text not in seen:
                seen.add(text)
                yield text


def includes():
    """C and C++ headers x the headers that they include."""
    name = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"]", flags=re.M)
    roots = ("/usr/include", sysconfig.get_paths()["purelib"], "/usr/lib/gcc")
    found = (name.findall(text) for root in roots for text in texts(root, (".h", ".hpp", ".cuh", ".hh")))
    return core(from_lists([names for names in found if len(set(names)) >= 3]), 4, 4)


def imports():
    """Python files x the modules that they import."""
    name = re.compile(r"^\s*(?:import|from)\s+([A-Za-z_][\w.]*)", flags=re.M)
    roots = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "/usr/lib/python3")
    found = (name.findall(text) for root in roots for text in texts(root, (".py",)))
    return core(from_lists([names for names in found if len(set(names)) >= 3]), 8, 4)


def package_records():
    """Records of all Debian packages that apt knows."""
    (path, *_) = glob.glob("/var/lib/apt/lists/*_main_binary-*_Packages*")
    command = ["/usr/lib/apt/apt-helper", "cat-file", path]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\n\n")


def packages():
    """6,000 Debian packages x the packages that they need or recommend."""
    lists = []
    for block in package_records():
        needed = ",".join(re.findall(r"^(?:Depends|Recommends|Pre-Depends): (.*)$", block, flags=re.M))
        lists.append(re.findall(r"([a-z0-9][a-z0-9+.-]+)", re.sub(r"\(.*?\)|\[.*?\]|:any|\|[^,]*", "", needed)))
    return some_rows(core(from_lists([names for names in lists if len(names) >= 2]), 10, 3), 6000)


def package_tags():
    """6,000 Debian packages x the tags by which they are classified."""
    found = (re.search(r"^Tag: (.*(?:\n .*)*)", block, flags=re.M) for block in package_records())
    lists = [re.findall(r"[^\s,]+", tags[1]) for tags in found if tags]
    return core(some_rows(core(from_lists([tags for tags in lists if len(tags) >= 4]), 10, 4), 6000), 5, 4)


def header_calls():
    """4,000 C and C++ headers x the functions that they name."""
    name, comment = re.compile(r"\b([a-z_]\w{3,})\s*\("), re.compile(r"/\*.*?\*/|//[^\n]*", flags=re.S)
    roots = ("/usr/include", sysconfig.get_paths()["purelib"])
    found = (
        name.findall(comment.sub("", text)) for root in roots for text in texts(root, (".h", ".hpp", ".cuh", ".hh"))
    )
    return core(some_rows(core(from_lists([names for names in found if len(set(names)) >= 5]), 10, 5), 4000), 10, 5)


def manual_words():
    """3,000 manual pages x the words of 60 pages or more, but of no more than half of them."""
    lists = []
    for path in sorted(Path("/usr/share/man").glob("man[1-8]/*.gz")):
        if path.is_symlink():
            continue
        text = gzip.open(path, "rt", errors="replace").read(400_000)
        if not text.startswith(".so "):
            text = re.sub(r"^[.'].{0,3}\\\".*$", " ", text, flags=re.M)
            text = re.sub(r"\\f.|\\[-&()a-z]{1,4}", " ", text)
            lists.append(set(re.findall(r"[a-z]{4,20}", text.lower())))
    in_pages = Counter(word for words in lists for word in words)
    kept = {word for word, count in in_pages.items() if 20 <= count <= len(lists) / 2}
    return core(some_rows(core(from_lists([words & kept for words in lists]), 20, 5), 3000), 60, 5)


def draw(n_users, n_items, **more):
    return core(datasets.make_interactions(n_users, n_items, random_state=0, **more), 1, 2)


SETS = {
    "web-log": web_log,
    "includes": includes,
    "imports": imports,
    "packages": packages,
    "manual-words": manual_words,
    "package-tags": package_tags,
    "header-calls": header_calls,
    "api": lambda: core(datasets.load_api_usage().data, 1, 5),
    "ml-100k": lambda: core(movielens("100k"), 1, 5),
    "ml-1m": lambda: core(movielens("1m"), 1, 5),
    "draw-3000x200": lambda: draw(3000, 200),
    "draw-2000x2000": lambda: draw(2000, 2000, mean_interactions=15),
}


def split_users(X, deal):
    """15 % of the users (2,000 at most) to test, as many to validate; a fifth of their items hidden, one at least."""
    n_held = min(round(0.15 * X.shape[0]), 2000)
    users = np.random.RandomState(SEED + deal).permutation(X.shape[0])
    train, val, test = (X[np.sort(part)] for part in np.split(users, [len(users) - 2 * n_held, len(users) - n_held]))
    known = np.flatnonzero(np.bincount(train.indices, minlength=X.shape[1]))
    train, val, test = (sp.csr_matrix(part[:, known]) for part in (train, val, test))
    shown = (holdout_split(part, 0.2, random_state=SEED + deal + i) for i, part in enumerate((val, test)))
    return Split(train, *(part for pair in shown for part in pair))
