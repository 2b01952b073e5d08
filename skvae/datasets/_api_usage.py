"""A users x items data set from the installed scientific packages: Python files, and the functions that they use."""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import numbers
import os
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch, check_scalar

# What skvae itself needs is on every machine that runs it, so the same versions give the same matrix anywhere. Of torch
# the parts that people write models with: its compiler alone has more files than all the others together.
_PACKAGES = ("numpy", "scipy", "sklearn", "joblib") + tuple(
    f"torch.{part}" for part in ("autograd", "distributions", "nn", "optim", "sparse", "utils")
)
# Copies of other projects: their habits are not the package's.
_VENDORED = {
    "externals",
    "_external",
    "_vendor",
    "vendored",
    "extern",
    "array_api_compat",
    "array_api_extra",
    "pyprima",
    "cobyqa",
}
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "skimage": "scikit-image"}  # where the import name is another
_LEAST_PER_FILE = 2  # a file with one name leaves nothing to rank when that one is hidden
_FORMAT = 1  # of the cache; raise it when the rules below change what is found

_DESCR = """\
API usage of the installed scientific Python stack
--------------------------------------------------
Rows are Python source files, columns the functions and classes that files use, under their fully qualified names; an
entry is 1 where the file uses the name. Read from the abstract syntax trees, nothing is imported or run: a dotted name
counts when it begins with a name that the file imports, is shadowed by no local variable, and is called, subclassed or
used as a decorator at least once anywhere (so constants and modules are no columns). A name that packages hand on
(scipy.sparse._csr.csr_array, scipy.sparse.csr_array) is one column, under its most public spelling. Names that have
only private spellings, and copies of other projects inside a package, are left out.

Names are kept when at least {min_files} files use them, files when they use at least {least} kept names; both rules are
applied in turn until nothing more drops.

The source files are those of {versions}, under the licences of these packages.
"""


def load_api_usage(*, packages=None, min_files=5, data_home=None, cache=True):
    """Load a matrix of the functions and classes that the source files of installed scientific packages use.

    This is a real implicit-feedback matrix that is on every machine. Its recommendations have the form "files that use
    these functions also use ...", and every programmer can judge them.

    Parameters
    ----------
    packages : iterable of str, default=None
        Import names of installed packages; their files are the rows. "torch.nn" takes a part of a package. None takes
        numpy, scipy, sklearn, joblib, and torch's autograd, distributions, nn, optim, sparse and utils.
    min_files : int, default=5
        Number of files that must use a name for it to become a column.
    data_home : str or path-like, default=None
        Folder whose subfolder "skvae" has the cache. None takes scikit-learn's data folder, `~/scikit_learn_data`.
    cache : bool, default=True
        Whether to store the result, and to read it again as long as packages, versions, files and `min_files` are the
        same. Reading the sources takes about 20 seconds, and reading the cache a few milliseconds. If the folder cannot
        be written, there is no cache. A damaged cache is made anew.

    Returns
    -------
    usage : Bunch
        With the attributes

        - data : csr_array of shape (n_files, n_names), float32, every entry 1
        - file_names : ndarray of str, shape (n_files,), sorted: "sklearn/linear_model/_ridge.py"
        - item_names : ndarray of str, shape (n_names,), sorted: "numpy.linalg.svd"
        - versions : dict, version of each package
        - DESCR : str

    Raises
    ------
    ValueError
        If a package is not installed as Python source, or no name is used by `min_files` files.

    Examples
    --------
    >>> from skvae.datasets import load_api_usage
    >>> usage = load_api_usage(packages=["joblib"], cache=False)
    >>> "os.path.join" in usage.item_names
    True
    """
    check_scalar(min_files, "min_files", numbers.Integral, min_val=1)
    if isinstance(packages, str):
        raise ValueError(f"packages must be a list of names, not a string; pass [{packages!r}].")
    packages = sorted(set(_PACKAGES if packages is None else packages))
    if not packages:
        raise ValueError("packages is empty; name at least one package, or pass None for the default ones.")
    sources = _find_sources(packages)
    versions = {name: _version(name) for name in sorted({package.partition(".")[0] for package in packages})}
    # The key is a digest of all that the result depends on; sizes tell an edited checkout from its release.
    sizes = [(source.name, source.path.stat().st_size) for source in sources]
    asked = [_FORMAT, sys.version_info[:2], sorted(_VENDORED), versions, int(min_files), sizes]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    path = _cache_path(data_home, key) if cache else None
    found = _read_cache(path, key) if path else None
    if found is None:
        found = _build(sources, min_files)
        if path:
            _write_cache(path, key, *found)
    data, file_names, item_names = found
    stack = ", ".join(f"{name} {version}" for name, version in versions.items())
    description = _DESCR.format(min_files=min_files, least=_LEAST_PER_FILE, versions=stack)
    return Bunch(data=data, file_names=file_names, item_names=item_names, versions=versions, DESCR=description)


class _Source(NamedTuple):
    name: str  # relative to the folder that packages are installed in, with forward slashes
    module: str
    path: Path


def _find_sources(packages):
    """Return the source files of the packages, sorted by name, each once."""
    found = {}
    for package in packages:
        folder, top = _package_folder(package)
        for path in folder.rglob("*.py"):
            parts = path.relative_to(top).parts
            if _VENDORED.isdisjoint(parts) and path.is_file():
                name, stem = "/".join(parts), path.stem
                module = ".".join(parts[:-1] if stem == "__init__" else (*parts[:-1], stem))
                found[name] = _Source(name, module, path)
    return [found[name] for name in sorted(found)]


def _package_folder(package):
    """Return the package's folder and the folder that it is installed in; nothing is imported."""
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        spec = None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location, *rest)
        if folder.is_dir():
            return folder, Path(location).parent
    raise ValueError(f"packages names {package!r}, which is not installed here as a package of Python files.")


def _version(top):
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(top, top))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# --- from sources to the matrix ---------------------------------------------------------------------------------------


def _build(sources, min_files):
    """Return the matrix, the names of its rows and those of its columns."""
    with _quiet():
        readings = {source: reading for source in sources if (reading := _read(source)) is not None}
    public = _most_public({source.module: reading for source, reading in readings.items()})
    called = {public[name] for reading in readings.values() for name in reading.called}
    wanted = {name for name in called if _privacy(name)[0] == 0}
    uses = {
        source.name: sorted({public[name] for name in reading.used} & wanted) for source, reading in readings.items()
    }
    files, names = _core(uses, min_files)
    if not files:
        raise ValueError(f"No name is used by min_files={min_files} of the {len(sources)} source files; lower it.")
    column = {name: i for i, name in enumerate(names)}
    indices = [[column[name] for name in uses[file] if name in column] for file in files]
    indptr = np.cumsum([0] + [len(row) for row in indices], dtype=np.int32)
    indices = np.concatenate(indices).astype(np.int32)
    data = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(files), len(names)))
    return data, np.array(files), np.array(names)


@contextlib.contextmanager
def _quiet():
    """Parse without warnings about other people's code, and without looking for reference cycles in between.

    Syntax trees have no cycles, and the search for them takes as long as the parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as errors, they would make the result depend on the caller's filters
            yield
    finally:
        if was_enabled:
            gc.enable()


def _core(uses, min_files):
    """Return the sorted files and names left when sparse names, then sparse files, are dropped until none is left."""
    files = sorted(uses)
    while True:
        count = {}
        for file in files:
            for name in uses[file]:
                count[name] = count.get(name, 0) + 1
        names = {name for name, n in count.items() if n >= min_files}
        kept = [file for file in files if len(names.intersection(uses[file])) >= _LEAST_PER_FILE]
        if len(kept) == len(files):
            return files, sorted(names)
        files = kept


class _Reading(NamedTuple):
    used: set  # dotted names, in the words of the file's own imports
    called: set  # those that are called, subclassed or decorate
    handed_on: dict  # names that the module's top level imports -> dotted name
    starred: list  # modules of which it imports everything
    defined: set  # functions and classes of its top level


def _read(source):
    """Return what a file uses and hands on; None where it is no Python that this interpreter can parse."""
    try:
        tree = ast.parse(source.path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return None
    package = source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]
    top = _Scope(tree.body, package)
    reading = _Reading(set(), set(), top.imports, top.starred, top.defined)
    pending = [(top, {})]
    while pending:
        scope, outer = pending.pop()
        # A local variable hides an import of the module, unless it is only the fallback of a failed import.
        inner = {name: target for name, target in outer.items() if name not in scope.bound} | scope.imports
        for names, found in ((scope.names, reading.used), (scope.called, reading.called)):
            for chain in names:
                base, dot, rest = chain.partition(".")
                if base in inner and "__" not in rest:
                    found.add(inner[base] + dot + rest)
        for body, arguments, is_class in scope.inner:
            # Names of a class body are not seen by the functions in it.
            below = _Scope(body, package, arguments)
            pending.append((below, outer | scope.imports if scope.is_class else inner))
            below.is_class = is_class
    return reading


class _Scope:
    """One scope of a syntax tree: what it imports, binds and names; the scopes inside are left for later.

    As in `ast.NodeVisitor`, nodes of a class go to the method `visit_<class>`. It returns the nodes to visit next.
    """

    def __init__(self, body, package, arguments=()):
        self.package = package
        self.imports, self.starred, self.defined = {}, [], set()
        self.bound, self.names, self.called = set(arguments), set(), set()
        self.inner, self.is_class = [], False
        stack = list(body)
        while stack:
            node = stack.pop()
            visit = getattr(self, f"visit_{type(node).__name__}", None)
            if visit:
                stack.extend(visit(node))
            elif isinstance(node, ast.AST):
                # ast.iter_child_nodes takes three times as long; strings and numbers on the stack are dropped here.
                for field in node._fields:
                    child = getattr(node, field, None)
                    if type(child) is list:
                        stack.extend(child)
                    elif child is not None:
                        stack.append(child)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.id)
        else:
            self.bound.add(node.id)
        return ()

    def visit_Attribute(self, node):
        chain, below = _dotted(node)
        if chain is None:
            return (below,)
        self.names.add(chain)
        return ()

    def visit_Call(self, node):
        self._note_called((node.func,))
        return (node.func, *node.args, *node.keywords)

    def _note_called(self, nodes):
        for node in nodes:
            chain = _dotted(node)[0]
            if chain is not None:
                self.called.add(chain)

    def visit_Import(self, node):
        for alias in node.names:
            self.imports[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
        return ()

    def visit_ImportFrom(self, node):
        module = node.module
        if node.level:  # relative: from as many folders up
            parts = self.package.split(".")
            module = ".".join(parts[: len(parts) - node.level + 1] + ([module] if module else []))
        for alias in node.names:
            if alias.name == "*":
                self.starred.append(module)
            else:
                self.imports[alias.asname or alias.name] = f"{module}.{alias.name}"
        return ()

    def visit_FunctionDef(self, node):
        self.bound.add(node.name)
        self.defined.add(node.name)
        self._note_called(node.decorator_list)
        self.inner.append((node.body, _arguments(node.args), False))
        annotations = [a.annotation for a in _each_argument(node.args) if a.annotation] + [node.returns]
        return (*node.decorator_list, *_defaults(node.args), *(a for a in annotations if a))

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        self.inner.append(((node.body,), _arguments(node.args), False))
        return _defaults(node.args)

    def visit_ClassDef(self, node):
        self.bound.add(node.name)
        self.defined.add(node.name)
        self._note_called((*node.bases, *node.decorator_list))
        self.inner.append((node.body, (), True))
        return (*node.bases, *node.keywords, *node.decorator_list)


def _dotted(node):
    """Return ("a.b.c", None) for a chain of attributes of a name, else (None, the node at its foot)."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        return ".".join((node.id, *reversed(parts))), None
    return None, node


def _each_argument(arguments):
    own = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return (*own, *(a for a in (arguments.vararg, arguments.kwarg) if a))


def _arguments(arguments):
    return [argument.arg for argument in _each_argument(arguments)]


def _defaults(arguments):
    return (*arguments.defaults, *(default for default in arguments.kw_defaults if default))


# --- one name for one thing -------------------------------------------------------------------------------------------


def _most_public(readings):
    """Map every name in use to the most public of the names that lead to the same definition."""
    names = sorted(set().union(*(reading.used | reading.called for reading in readings.values())))
    origins, spellings = {}, {}
    for name in names:
        origin, seen = name, set()
        while origin not in seen:  # through the imports of the modules on its way to where it is defined
            seen.add(origin)
            origin = _one_step(origin, readings)
        origins[name] = origin
        spellings.setdefault(origin, []).append(name)
    best = {origin: min((*same, origin), key=_privacy) for origin, same in spellings.items()}
    return {name: best[origins[name]] for name in names}


def _privacy(name):
    parts = name.split(".")
    return sum(part.startswith("_") for part in parts), len(parts), len(name), name


def _one_step(name, readings):
    """Follow a dotted name through one import, by the module at its beginning; the same name if there is none."""
    module, rest = _split(name, readings)
    if module is None or not rest:
        return name
    reading, (first, dot, tail) = readings[module], rest.partition(".")
    if first in reading.defined:
        return name
    if first in reading.handed_on:
        return reading.handed_on[first] + dot + tail
    for starred in reading.starred:
        if starred in readings and _offers(starred, first, readings, set()):
            return f"{starred}.{rest}"
    return name


def _offers(module, name, readings, seen):
    """Whether the module defines or imports the name, itself or by a starred import."""
    if module in seen or name.startswith("_"):
        return False
    seen.add(module)
    reading = readings[module]
    if name in reading.defined or name in reading.handed_on:
        return True
    return any(_offers(starred, name, readings, seen) for starred in reading.starred if starred in readings)


def _split(name, readings):
    """Return the longest known module at the beginning of the name, and the rest."""
    at = len(name)
    while at > 0:
        if name[:at] in readings:
            return name[:at], name[at + 1 :]
        at = name.rfind(".", 0, at)
    return None, name


# --- the cache --------------------------------------------------------------------------------------------------------


def _cache_path(data_home, key):
    try:
        folder = Path(get_data_home(data_home), "skvae")
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return folder / f"api_usage-{key[:16]}.npz"


def _read_cache(path, key):
    """Return what `_build` returns, or None if the cache is absent, damaged or of something else."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if stored["key"].item() != key:
                return None
            files, names, indices, indptr = (stored[name] for name in ("files", "names", "indices", "indptr"))
        data = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(files), len(names)))
        data.check_format(full_check=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return data, files, names


def _write_cache(path, key, data, files, names):
    """Write the cache whole or not at all."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.part_", delete=False) as file:
            part = file.name
            np.savez_compressed(file, key=key, files=files, names=names, indices=data.indices, indptr=data.indptr)
        os.replace(part, path)
    except OSError:
        pass  # a full or read-only disk costs the next call its time, nothing else
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)  # gone already where it was put in place
