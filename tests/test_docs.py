"""The documentation runs, names what exists, and every public name is documented.

Python blocks of README.rst and doc/ run in order, one namespace for each page, in an empty folder. A block that cannot
run says why in a comment right above it:

    .. not run: needs two machines

    .. code-block:: python

or which test runs it as a script of its own, under the name that its caption gives it:

    .. run by: tests/distributed/test_many_fits.py

    .. code-block:: python
       :caption: search.py
"""

import ast
import doctest
import functools
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from doc_blocks import blocks_of
from forking_python import ForkingPython

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
BUILT = {"_build", "gallery", "generated", "changes", "_templates"}
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst"] + sorted(
    page for page in DOC.rglob("*.rst") if not BUILT & set(page.relative_to(DOC).parts)
)
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.py") if not path.name.startswith("_"))
PUBLIC_MODULES = [
    "skvae",
    "skvae.datasets",
    "skvae.displays",
    "skvae.inspection",
    "skvae.metrics",
    "skvae.model_selection",
]


def relative(path):
    return path.relative_to(ROOT).as_posix()


# --- code blocks ------------------------------------------------------------------------------------------------------


def run_block(block, page, namespace):
    if ">>> " in block.code:
        test = doctest.DocTestParser().get_doctest(block.code, namespace, page, page, block.line - 1)
        test.globs = namespace  # the parser copies; the next block must see what this one binds
        runner = doctest.DebugRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        try:
            runner.run(test, clear_globs=False)
        except doctest.DocTestFailure as failure:
            line = block.line + failure.example.lineno
            want, got = failure.example.want, failure.got
            pytest.fail(f"{page}:{line}: {failure.example.source}expected\n{want}got\n{got}", pytrace=False)
        except doctest.UnexpectedException as failure:
            raise failure.exc_info[1] from None
    else:
        # Blank lines before it give each line of code the number it has in the page.
        exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), namespace)


def run_page(text, page):
    namespace = {"__name__": "__main__"}
    for block in blocks_of(text):
        if block.language in {"python", "pycon", "python3"} and not block.not_run and not block.run_by:
            run_block(block, page, namespace)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), relative(page))


def unrun_scripts(text):
    """Captions of the scripts whose tests do not name them."""
    scripts = [block for block in blocks_of(text) if block.run_by]
    return [block.caption for block in scripts if f'"{block.caption}"' not in (ROOT / block.run_by).read_text()]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_scripts_are_run_by_the_tests_that_the_page_names(page):
    assert unrun_scripts(page.read_text()) == []


def hidden_python(text):
    """Lines of the blocks that hold Python but do not say so, and would never be run."""
    imports = re.compile(r"^(>>> )?(import|from) (skvae|sklearn|numpy)\b", re.M)
    return [b.line for b in blocks_of(text) if b.language in {"literal", ""} and imports.search(b.code)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_stands_in_blocks_that_are_run(page):
    assert hidden_python(page.read_text()) == [], "use `.. code-block:: python`"


@functools.cache
def make_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def commands_of(text):
    """Lines of shell blocks, and what stands in double backquotes."""
    shell = {"bash", "sh", "shell", "console"}
    inside = [line for block in blocks_of(text) if block.language in shell for line in block.code.splitlines()]
    return inside + re.findall(r"``(make [^`]+)``", text)


def unknown_targets(text):
    named = [re.match(r"(?:\$ )?make +((?:[A-Za-z_]+=\S+ +)*)([\w-]+)", line) for line in commands_of(text)]
    return {match[2] for match in named if match} - make_targets()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_make_targets_named_exist(page):
    assert unknown_targets(page.read_text()) == set()


PAGE = """
Title
=====
.. code-block:: python
   :caption: a

   x = 1

Prose >>> no code, and ``make never``::

    import skvae

    >>> x + 1
    2

.. not run: has no file

.. code:: python

   open("missing")

.. run by: tests/conftest.py

.. code-block:: python
   :caption: no_such_script.py

   open("missing")

.. note::

   .. code-block:: bash

      make test
"""


def test_the_block_reader_finds_all_blocks_and_their_lines():
    found = blocks_of(PAGE)
    assert [(b.language, b.line, b.caption, b.not_run, b.run_by) for b in found] == [
        ("python", 7, "a", "", ""),
        ("literal", 11, "", "", ""),
        ("python", 20, "", "has no file", ""),
        ("python", 27, "no_such_script.py", "", "tests/conftest.py"),
        ("bash", 33, "", "", ""),
    ]
    assert found[0].code == "x = 1"
    assert unrun_scripts(PAGE) == ["no_such_script.py"]
    assert hidden_python(PAGE) == [11]
    assert unknown_targets(PAGE) == {"never"}


def test_the_block_runner_shares_names_along_a_page_and_sees_failures():
    run_page(PAGE, "page.rst")
    run_page("    .. code:: python\n\n        x = 2\n\n>>> x\n2\n\ntext\n\n>>> y = x + 1\n>>> y\n3\n", "page.rst")
    with pytest.raises(NameError, match="name 'x'"):
        run_page(">>> x\n2\n", "page.rst")
    with pytest.raises(pytest.fail.Exception, match=r"page.rst:5: 1 \+ 1\nexpected\n3\ngot\n2"):
        run_page("text\n\n>>> 2\n2\n>>> 1 + 1\n3\n", "page.rst")


# --- public names -----------------------------------------------------------------------------------------------------


def public_names():
    for module in PUBLIC_MODULES:
        for name in importlib.import_module(module).__all__:
            if f"{module}.{name}" not in PUBLIC_MODULES and not name.startswith("__"):
                yield f"{module}.{name}"


def load(dotted):
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@functools.cache
def names_in_api_page():
    """Entries of the autosummary lists of doc/api.rst, in full."""
    module, found = "", set()
    for line in (DOC / "api.rst").read_text().splitlines():
        if match := re.match(r"\.\. (?:current)?module:: *(\S+)", line):
            module = match[1]
        elif match := re.match(r" +([A-Za-z_][\w.]*)$", line):
            found.add(f"{module}.{match[1]}")
    return found


def test_the_api_page_lists_exactly_the_public_names():
    assert names_in_api_page() == set(public_names())


class Section(NamedTuple):
    entries: dict  # what a "name : type" line names -> that line and its description
    text: str


def sections_of(docstring):
    """The parts of a numpydoc docstring by title; the summary under ""."""
    lines = inspect.cleandoc(docstring).splitlines()
    heads = [i for i in range(len(lines) - 1) if lines[i].strip() and re.fullmatch(r"-{3,}", lines[i + 1])]
    parts = {"": lines[: heads[0]] if heads else lines}
    for i, end in zip(heads, heads[1:] + [len(lines)]):
        parts[lines[i].strip()] = lines[i + 2 : end]
    return {title: Section(entries_of(part), "\n".join(part).strip()) for title, part in parts.items()}


def entries_of(lines):
    entries, names = {}, []
    for line in lines:
        if match := re.match(r"([*\w]+(?:, [*\w]+)*)(?: : .*)?$", line):
            names = match[1].split(", ")
            entries.update({name: line for name in names})
        elif names:
            entries.update({name: f"{entries[name]}\n{line}" for name in names})
    return entries


def complaints(name, obj):
    """What is missing from the docstring of a public function or class, as sentences."""
    found = list(docstring_complaints(name, obj))
    if inspect.isclass(obj):
        for method_name, method in own_methods(obj):
            found += docstring_complaints(f"{name}.{method_name}", method)
        if hasattr(obj, "fit") and "Attributes" not in sections_of(obj.__doc__ or ""):
            found.append(f"{name}: no Attributes section; name what fit sets")
    return found


def own_methods(cls):
    """Public methods that skvae defines, its base classes included: what scikit-learn adds, scikit-learn documents."""
    for name, method in inspect.getmembers(cls, inspect.isroutine):
        # A method written without a docstring inherits scikit-learn's through inspect.getdoc; __doc__ does not.
        if not name.startswith("_") and (getattr(method, "__module__", None) or "").startswith("skvae"):
            yield name, method


def docstring_complaints(name, obj):
    if not obj.__doc__:
        yield f"{name}: no docstring"
        return
    sections = sections_of(obj.__doc__)
    if not sections[""].text:
        yield f"{name}: no summary"
    yield from parameter_complaints(name, obj, sections)
    if not inspect.isclass(obj) and not {"Returns", "Yields"} & set(sections) and returns_something(obj):
        yield f"{name}: no Returns section"


def parameter_complaints(name, obj, sections):
    signature = {p.name: p for p in inspect.signature(obj).parameters.values() if p.name != "self"}
    starred = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    wanted = [starred.get(p.kind, "") + p.name for p in signature.values()]
    entries = sections["Parameters"].entries if "Parameters" in sections else {}
    if list(entries) != wanted:
        yield f"{name}: Parameters lists {list(entries)}, the signature {wanted}"
    for parameter, text in entries.items():
        told = re.search(r"default=(.+?)(?:\n|$|[,;] )", text.split("\n")[0] + "\n")
        default = getattr(signature.get(parameter), "default", inspect.Parameter.empty)
        if told and default is not inspect.Parameter.empty and not same_value(told[1], default):
            yield f"{name}: {parameter} defaults to {default!r}, not to {told[1]}"


def same_value(text, value):
    try:
        return ast.literal_eval(text.strip()) == value
    except (ValueError, SyntaxError):
        return True  # words, such as the name of a folder: nothing to compare


def returns_something(function):
    """Whether its body, functions within it left out, returns or yields a value."""

    def gives(node):
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom):
            return node.value is not None
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        return not inner and any(gives(child) for child in ast.iter_child_nodes(node))

    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    return any(gives(statement) for statement in definition.body)


@pytest.mark.parametrize("dotted", list(public_names()))
def test_public_names_have_whole_docstrings(dotted):
    found = complaints(dotted, load(dotted))
    assert not found, "\n" + "\n".join(found)


def good(a, b=2, *, c="x"):
    """Do it.

    Parameters
    ----------
    a, b : int, default=2
        Numbers.
    c : {"x", "y"}, default="x"
        Word.

    Returns
    -------
    d : int
    """
    return a + b + len(c)


def test_the_docstring_checker_accepts_a_whole_docstring():
    assert complaints("good", good) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("a, b", "a", "Parameters lists ['a', 'c']"),
        ("a, b", "b, a", "Parameters lists ['b', 'a', 'c']"),
        ("int, default=2", "int, default=3", "b defaults to 2, not to 3"),
        ('default="x"', 'default="y"', "c defaults to 'x', not to \"y\""),
        ("Returns\n-------", "Raises\n------", "no Returns section"),
        ("Do it.", "", "no summary"),
    ],
)
def test_the_docstring_checker_sees_a_planted_fault(old, new, complaint, monkeypatch):
    text = inspect.getdoc(good)  # Python 3.13 takes away the indentation itself
    assert old in text
    monkeypatch.setattr(good, "__doc__", text.replace(old, new))
    assert [complaint in text for text in complaints("good", good)] == [True]


# --- promises, figures and pictures -----------------------------------------------------------------------------------


def missing_tests(text):
    """Names of tests, `tests/file.py::test_name`, that are not defined there."""
    named = re.findall(r"``(tests/[\w/]+\.py)::(test_\w+)``", text)
    assert named
    sources = {path: (ROOT / path).read_text() if (ROOT / path).is_file() else "" for path, _ in named}
    return [f"{path}::{name}" for path, name in named if not re.search(rf"^def {name}\(", sources[path], re.M)]


def test_every_promise_names_tests_that_exist():
    text = (DOC / "promises.rst").read_text()
    assert missing_tests(text) == []
    sections = re.split(r"\n[^\n]+\n-{3,}\n", text)[1:]
    assert all("::test_" in section for section in sections)


def test_a_promise_without_its_test_is_seen():
    here = "``tests/test_docs.py::test_a_promise_without_its_test_is_seen``"
    assert missing_tests(here + " ``tests/test_docs.py::test_none`` ``tests/none.py::test_none``") == [
        "tests/test_docs.py::test_none",
        "tests/none.py::test_none",
    ]


def tables_of(text):
    """Cells of every list-table of a page, as lists of rows, by their title or their first cell."""
    found = {}
    for title, body in re.findall(r"^\.\. list-table:: *([^\n]*)\n(.*?)(?=^\S|\Z)", text, re.M | re.S):
        rows = re.split(r"^ {3}\* - ", body, flags=re.M)[1:]
        cells = [[" ".join(cell.split()) for cell in re.split(r"^ {5}- ?", row, flags=re.M)] for row in rows]
        found.setdefault(title or cells[0][0], []).append(cells)
    return found


def numbers_of(text):
    return re.findall(r"\d+\.?\d*", text.replace(",", ""))


def test_the_readme_says_the_ratios_of_the_page_performance():
    (told,) = tables_of((ROOT / "README.rst").read_text())["Estimator"]
    page = tables_of((DOC / "performance.rst").read_text())
    for estimator, *row in told[1:]:
        of_estimator = [table for title, tables in page.items() if estimator.strip("`") in title for table in tables]
        assert any(row in table for table in of_estimator), (estimator, row)


def test_the_readme_rounds_the_ndcg_of_the_guide():
    (told,) = tables_of((ROOT / "README.rst").read_text())["Data"]
    page = tables_of((DOC / "user_guide/recommender.rst").read_text())["Data"]
    (full,) = (table for table in page if "EASE" in table[0])
    columns = [full[0].index(name) for name in ("Popularity", "EASE", "Plain Mult-VAE", "skvae, defaults")]
    assert len(told) == len(full)
    for row, whole in zip(told[1:], full[1:]):
        for cell, column in zip(row[2:], columns):
            exact = numbers_of(whole[column])
            assert cell == (f"{float(exact[0]):.3f}" if exact else whole[column]), (row[0], whole[column])
    (sets,) = tables_of((ROOT / "README.rst").read_text())["Set"]
    (page,) = tables_of((DOC / "user_guide/recommender.rst").read_text())["Set"]
    of_guide = [[row[1], row[3], row[4]] for row in page[1:]]
    assert all(row[1:] in of_guide for row in sets[1:])


def test_the_readme_has_no_metric_that_reads_as_a_mail_address():
    """Sites that show the README make links of them; the documentation's own configuration undoes that."""
    prose = re.sub(r"``[^`]*``", "", (ROOT / "README.rst").read_text())
    assert re.findall(r"\w+@\w+", prose) == []


def names_in_task_table(page):
    """The public names that the table of tasks recommends, in the order of the tasks."""
    (table,) = tables_of(page.read_text())["Task"]
    found = [[name for name in re.findall(r"\w+", use) if name in short_names()] for _, use in table[1:]]
    return {task: names for (task, _), names in zip(table[1:], found)}


@functools.cache
def short_names():
    return {name.rpartition(".")[2] for name in public_names()}


def test_start_page_and_readme_recommend_the_same_estimators():
    assert names_in_task_table(DOC / "index.rst") == names_in_task_table(ROOT / "README.rst")
    estimators = {name.partition(".")[2] for name in public_names() if name.count(".") == 1}
    assert estimators <= {name for names in names_in_task_table(DOC / "index.rst").values() for name in names}


GUIDE = [DOC / "index.rst", DOC / "quick_start.rst", DOC / "theory.rst", DOC / "performance.rst"]
GUIDE += sorted(page for page in (DOC / "user_guide").glob("*.rst") if page.stem != "index")


@pytest.mark.parametrize("page", GUIDE, ids=relative)
def test_every_guide_page_has_a_picture_that_is_told_in_words(page):
    pictures = re.findall(r"^\.\. plot:: (\S+)\n   :alt: \S+", page.read_text(), re.M)
    assert pictures
    assert all((DOC / picture).is_file() for picture in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("picture", sorted((DOC / "pictures").glob("*.py")), ids=relative)
def test_pictures_are_drawn(picture, run_python):
    run_python(["-c", NOTEBOOK, str(picture)], picture.parent)


# --- change log and examples ------------------------------------------------------------------------------------------

FRAGMENT = re.compile(r"(\d+|\+[\w-]+)\.(feature|fix|change|doc|misc)(\.\d+)?\.rst")


def test_change_log_fragments_are_named_id_kind():
    others = {"README.rst", "template.rst"}
    names = {path.name for path in (DOC / "changes").iterdir()} - others
    wrong = sorted(name for name in names if not FRAGMENT.fullmatch(name))
    assert not wrong, f"{wrong}: see doc/changes/README.rst"
    assert others <= {path.name for path in (DOC / "changes").iterdir()}


# Runs an example as the notebook that the gallery makes of it: cell by cell, with the arguments of a kernel and without
# a file. After each cell it closes the figures, as gallery and notebook do, and fails if an axis of one is empty.
NOTEBOOK = """
import re, sys
from pathlib import Path

import matplotlib.pyplot as plt

cells = re.split(r"(?m)^# %%.*$", Path(sys.argv[1]).read_text())
sys.argv[:] = ["ipykernel_launcher.py", "-f", "kernel-7c4f.json"]
namespace = {"__name__": "__main__"}
n_figures = 0
for number, cell in enumerate(cells):
    exec(compile(cell, f"<cell {number}>", "exec"), namespace)
    for figure in map(plt.figure, plt.get_fignums()):
        empty = [axis.get_title() for axis in figure.axes if not axis.has_data()]
        assert figure.axes and not empty, f"cell {number} leaves a figure with empty axes: {empty}"
        n_figures += 1
    plt.close("all")
assert n_figures, "no figure"
"""


@pytest.fixture(scope="module")
def run_python():
    """Run Python in a folder with the small form of the examples; what it prints, where it succeeds."""
    with ForkingPython(SKVAE_EXAMPLE_FAST="1", MPLBACKEND="Agg") as python:

        def run(arguments, folder):
            code, output = python.run(arguments, folder)
            assert code == 0, output
            return output

        yield run


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_examples_run_as_notebooks_and_leave_no_empty_axes(example, tmp_path, run_python):
    run_python(["-c", NOTEBOOK, str(example)], tmp_path)


def test_the_gallery_shows_full_runs(tmp_path, run_python):
    """Whatever the environment says, Sphinx's configuration leaves the small form of the examples."""
    told = f"import os, runpy; runpy.run_path({str(DOC / 'conf.py')!r}); print('SKVAE_EXAMPLE_FAST' in os.environ)"
    assert run_python(["-c", told], tmp_path).split() == ["False"]


@pytest.mark.slow
def test_the_demo_takes_a_command_line_and_saves_its_picture(tmp_path, run_python):
    demo = ROOT / "examples/1_quickstart/tune_recommender.py"
    run_python([str(demo), "--output", "here.png"], tmp_path)
    assert (tmp_path / "here.png").stat().st_size > 10_000


CELLS = "import matplotlib.pyplot as plt\n{first}\n# %%\n# Text\n# ----\n{second}\n"


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("axis = plt.subplots()[1]", "axis.plot([1, 2])", "empty axes"),
        ("import argparse; argparse.ArgumentParser().parse_args()", "plt.plot([1, 2])", "unrecognized arguments"),
        ("", "", "no figure"),
        ("", "plt.plot([1, 2])", None),
    ],
)
def test_the_notebook_runner_sees_a_planted_fault(first, second, complaint, tmp_path, run_python):
    (tmp_path / "example.py").write_text(CELLS.format(first=first, second=second))
    if complaint is None:
        run_python(["-c", NOTEBOOK, "example.py"], tmp_path)
    else:
        with pytest.raises(AssertionError, match=complaint):
            run_python(["-c", NOTEBOOK, "example.py"], tmp_path)
