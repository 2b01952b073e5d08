"""load_api_usage: names resolved as Python would resolve them, on a package written for the purpose; the cache."""

import gc
import textwrap

import numpy as np
import pytest

from skvae.datasets import _api_usage, load_api_usage


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write files {path: source} as installed packages; folders become packages."""
    top = tmp_path / "site"
    monkeypatch.syspath_prepend(str(top))

    def write(files):
        for name, source in files.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            init = path.parent / "__init__.py"
            if not init.exists():
                init.write_text("")
            path.write_text(textwrap.dedent(source))
        return top

    return write


def used_by(usage, file):
    row = usage.data[[np.flatnonzero(usage.file_names == file)[0]]]
    return usage.item_names[row.indices].tolist()


def uses_of(source, package, **more):
    """Return what one file uses, every rule on counts switched off."""
    package({"skp/one.py": source, "skp/sub/deep.py": "from os import sep", **more})
    usage = load_api_usage(packages=["skp"], min_files=1, cache=False)
    return used_by(usage, "skp/one.py") if "skp/one.py" in usage.file_names else []


PADDING = "import math\nmath.floor(1), math.ceil(1)\n"  # a row needs two names

CASES = {
    "module, function, renamed": (
        "import numpy as np, os.path\nfrom scipy import sparse as sp\nfrom json import dumps as d\n"
        "np.linalg.svd(1), os.path.join(), sp.csr_array(2), d(3)",
        ["json.dumps", "numpy.linalg.svd", "os.path.join", "scipy.sparse.csr_array"],
    ),
    "relative": ("from .sub import deep\nfrom .sub.deep import f\nfrom . import g\ndeep.h(), f(), g()", None),
    "not called": ("import numpy as np\nnp.pi, np.nan, np.linalg", []),
    "passed on, called elsewhere": ("import numpy as np\nf(np.exp)\nnp.exp(1)", ["numpy.exp"]),
    "base and decorator": (
        "import abc, enum, functools\n@functools.cache\ndef f(): ...\n@enum.unique\nclass A(abc.ABC): ...",
        ["abc.ABC", "enum.unique", "functools.cache"],
    ),
    "annotation and default": (
        "import a, b, c\ndef f(x: a.A = b.B(), *, y=c.C()) -> a.D: ...\na.A(), a.D()",
        ["a.A", "a.D", "b.B", "c.C"],
    ),
    "imported in a function": ("def f():\n    import a\n    def g():\n        a.A()\ndef h():\n    a.B()", ["a.A"]),
    "method of a result": ("import a\na.A().fit().score(a.B())", ["a.A", "a.B"]),
    "shadowed by an argument": ("from a import A, B\ndef f(A):\n    A(), B()\nlambda B: B()\nA()", ["a.A", "a.B"]),
    "only shadowed": ("from a import A, B\ndef f(A):\n    A()\ng = lambda B: B()", []),
    "shadowed by a local variable": ("from a import A\ndef f():\n    for A in x:\n        A()", []),
    "methods do not shadow": (
        "from a import A\nclass C:\n    def A(self): ...\n    def m(self):\n        A()",
        ["a.A"],
    ),
    "fallback of a failed import": ("try:\n    from a import A\nexcept ImportError:\n    A = None\nA()", ["a.A"]),
    "comprehension, f-string, async, match": (
        "import a\nasync def f():\n    [a.A(x) for x in y]\n    f'{a.B()}'\n"
        "    await a.C()\n    match x:\n        case None: a.D()",
        ["a.A", "a.B", "a.C", "a.D"],
    ),
    "private and dunder": ("import a\nfrom a._b import c\na._x(), c(), a.__doc__.strip()", []),
    "builtins and own functions": ("def f(): ...\nf(), len([])", []),
}


@pytest.mark.parametrize("case", CASES)
def test_names_are_resolved_through_the_imports(package, case):
    source, expected = CASES[case]
    expected = ["skp.g", "skp.sub.deep.f", "skp.sub.deep.h"] if expected is None else expected
    assert uses_of(PADDING + source, package) == sorted([*expected, "math.ceil", "math.floor"])


def test_one_thing_under_several_names_is_one_column(package):
    package(
        {
            "skp/__init__.py": """\
                from ._impl import *
                from ._c import f as last_resort
                from .api import open_door as unlock
                """,
            "skp/_c.py": "def f(): ...",
            "skp/_impl/__init__.py": "from .core import solve, _hidden\nfrom ._c import *",
            "skp/_impl/core.py": "def solve(): ...\ndef _hidden(): ...",
            "skp/api.py": "def open_door(): ...",
            "skp/a.py": "import skp\nskp.solve(), skp.unlock(), skp.last_resort()",
            "skp/b.py": """\
                from ._impl.core import solve
                from .api import open_door
                from ._c import f
                solve(), open_door(), f()
                """,
            "skp/c.py": """\
                from skp._impl import solve, _hidden as h
                from skp import _c, api
                solve(), api.open_door(), h(), _c.f()
                """,
        }
    )
    usage = load_api_usage(packages=["skp"], min_files=3, cache=False)
    assert usage.item_names.tolist() == ["skp.last_resort", "skp.solve", "skp.unlock"]
    assert usage.data.toarray().tolist() == [[1, 1, 1]] * 3


def test_warnings_about_the_code_change_nothing(package, recwarn):
    source = PADDING + "import re\nre.compile('\\d')\n1 is 1\n"
    assert "re.compile" in uses_of(source, package)  # warnings are errors in these tests
    assert not recwarn.list


def test_the_garbage_collector_is_left_as_it_was(package):
    package({"skp/a.py": "import m\nm.p(), m.q()"})
    try:
        for switch in (gc.disable, gc.enable):
            switch()
            before = gc.isenabled()
            load_api_usage(packages=["skp"], min_files=1, cache=False)
            assert gc.isenabled() == before
    finally:
        gc.enable()


def test_imports_in_a_circle_end(package):
    package(
        {"skp/x.py": "from .y import f\nfrom .y import *\nf()", "skp/y.py": "from .x import f\nfrom .x import *\nf()"}
    )
    with pytest.raises(ValueError, match="No name is used by min_files=5 of the 3 source files"):
        load_api_usage(packages=["skp"], cache=False)


def test_rare_names_and_thin_files_go_until_nothing_changes(package):
    package(
        {
            "skp/a.py": "import m\nm.p(), m.q(), m.r()",
            "skp/b.py": "import m\nm.p(), m.q()",
            "skp/c.py": "import m\nm.r(), m.s()",  # s is rare, so this file goes, and with it r
        }
    )
    usage = load_api_usage(packages=["skp"], min_files=2, cache=False)
    assert usage.item_names.tolist() == ["m.p", "m.q"]
    assert usage.file_names.tolist() == ["skp/a.py", "skp/b.py"]


def test_what_cannot_be_parsed_and_vendored_copies_are_passed_over(package):
    top = package({f"skp/{name}.py": "import m\nm.p(), m.q()" for name in ("a", "b", "externals/c")})
    (top / "skp/broken.py").write_text("def (")
    (top / "skp/binary.py").write_bytes(b"\x00\xff\xfe")
    (top / "skp/compiled.pyc").write_bytes(b"import m; m.p(), m.q()")
    usage = load_api_usage(packages=["skp"], min_files=1, cache=False)
    assert usage.file_names.tolist() == ["skp/a.py", "skp/b.py"]


def test_a_part_of_a_package(package):
    package({f"{name}.py": "import m\nm.p(), m.q()" for name in ("skp/a", "skp/sub/b", "skp/sub/c", "skq/d")})
    usage = load_api_usage(packages=("skp.sub", "skq", "skp.sub"), min_files=1, cache=False)
    assert usage.file_names.tolist() == ["skp/sub/b.py", "skp/sub/c.py", "skq/d.py"]
    assert usage.versions == {"skp": "unknown", "skq": "unknown"}


@pytest.mark.parametrize("name", ["no_such_package", "numpy.no_such_part", "math", "", ".numpy"])
def test_packages_that_are_not_there_are_named(name):
    with pytest.raises(ValueError, match=f"packages names '{name}', which is not installed"):
        load_api_usage(packages=[name], cache=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_files": 0}, ValueError, "min_files"),
        ({"min_files": 2.5}, TypeError, "min_files"),
        ({"packages": "numpy"}, ValueError, r"pass \['numpy'\]"),
        ({"packages": []}, ValueError, "packages is empty"),
    ],
)
def test_bad_parameters_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        load_api_usage(**options, cache=False)


@pytest.fixture
def counted(package, monkeypatch):
    """A small package, and the number of times that its sources were read."""
    package({f"skp/{name}.py": "import m\nm.p(), m.q()" for name in "ab"})
    built, build = [], _api_usage._build
    monkeypatch.setattr(_api_usage, "_build", lambda *arguments: built.append(1) or build(*arguments))
    return built


def load(home, **options):
    return load_api_usage(**{"packages": ["skp"], "min_files": 1, "data_home": home, **options})


def same(one, two):
    return all(np.array_equal(one[name], two[name]) for name in ("file_names", "item_names")) and (
        one.data.dtype == two.data.dtype and np.array_equal(one.data.toarray(), two.data.toarray())
    )


def test_the_cache_holds_what_was_read(tmp_path, counted):
    first, again = load(tmp_path), load(tmp_path)
    assert len(counted) == 1
    assert same(first, again)
    assert again.DESCR == first.DESCR
    assert [path.suffix for path in (tmp_path / "skvae").iterdir()] == [".npz"]  # and no part of a file


def test_the_cache_is_of_these_files_and_parameters(tmp_path, counted, package, monkeypatch):
    load(tmp_path)
    load(tmp_path, min_files=2)
    package({"skp/a.py": "import m\nm.p(), m.q(), m.r()"})
    assert "m.r" in load(tmp_path).item_names
    monkeypatch.setattr(_api_usage, "_version", lambda top: "9.9")
    load(tmp_path)
    assert len(counted) == 4


def test_a_damaged_cache_is_made_anew(tmp_path, counted):
    first = load(tmp_path)
    (path,) = (tmp_path / "skvae").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:-30], b"x" * 99, whole[:middle] + bytes(40) + whole[middle + 40 :]):
        path.write_bytes(damaged)
        assert same(load(tmp_path), first)
        assert path.read_bytes()[:2] == b"PK"
    assert len(counted) == 5
    load(tmp_path)
    assert len(counted) == 5


def test_a_cache_with_impossible_contents_is_made_anew(tmp_path, counted):
    first = load(tmp_path)
    (path,) = (tmp_path / "skvae").iterdir()
    with np.load(path) as stored:
        contents = dict(stored)
    for change in ({"indices": contents["indices"] + 9}, {"key": np.array("another")}, {"key": np.array([1, 2])}):
        np.savez(path, **contents | change)
        assert same(load(tmp_path), first)
    assert len(counted) == 4


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path, counted, monkeypatch):
    occupied = tmp_path / "file"
    occupied.write_text("")
    for home in (occupied, occupied / "below"):
        load(home)
    (tmp_path / "skvae").write_text("")
    load(tmp_path)
    assert len(counted) == 3

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_api_usage.np, "savez_compressed", full)
    home = tmp_path / "other"
    load(home)
    assert list((home / "skvae").iterdir()) == []


def test_without_cache_nothing_is_written(tmp_path, counted):
    load(tmp_path, cache=False)
    assert not (tmp_path / "skvae").exists()


def test_real_packages_give_names_that_a_reader_knows():
    usage = load_api_usage(packages=["joblib", "numpy.linalg", "scipy.sparse"], min_files=3, cache=False)
    X = usage.data
    assert X.dtype == np.float32
    assert set(X.data) == {1}
    assert X.has_canonical_format
    assert X.shape == (len(usage.file_names), len(usage.item_names))
    assert min(X.sum(0)) >= 3
    assert min(X.sum(1)) >= 2
    assert usage.file_names.tolist() == sorted(usage.file_names)
    assert usage.item_names.tolist() == sorted(usage.item_names)
    assert {"numpy.asarray", "scipy.sparse.csr_array", "os.path.join"} <= set(usage.item_names)
    assert not any(part.startswith("_") for name in usage.item_names for part in name.split("."))
    assert usage.versions["joblib"] in usage.DESCR
