"""The documentation runs, names what exists, and every public name is documented.

Python blocks of README.rst and doc/ run in order, one namespace for each page, in an empty folder. A block that cannot
run says why in a comment right above it:

    .. not run: needs two machines

    .. code-block:: python
"""

import ast
import doctest
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
BUILT = {"_build", "gallery", "generated", "changes", "_templates"}
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst"] + sorted(
    page for page in DOC.rglob("*.rst") if not BUILT & set(page.relative_to(DOC).parts)
)
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.py") if not path.name.startswith("_"))
PUBLIC_MODULES = ["skvae", "skvae.metrics", "skvae.model_selection", "skvae.datasets"]


def relative(path):
    return path.relative_to(ROOT).as_posix()


# --- code blocks ------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    language: str
    line: int  # of its first line of code, from 1
    code: str
    not_run: str  # the reason, or ""


DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. (?:code-block|code|sourcecode):: *(?P<language>\S*) *$")
NOT_RUN = re.compile(r"^ *\.\. not run: *(?P<reason>\S.*)$")
OPTION = re.compile(r"^ *:[\w-]+:")


def blocks_of(text):
    """All code of a page in its order: directives, doctests that stand in the prose, and literal blocks (`::`)."""
    lines = text.splitlines()
    found, i, not_run = [], 0, ""
    while i < len(lines):
        directive = DIRECTIVE.match(lines[i])
        if reason := NOT_RUN.match(lines[i]):
            not_run, i = reason["reason"], i + 1
        elif directive or lines[i].rstrip().endswith("::"):
            indent = len(lines[i]) - len(lines[i].lstrip())
            start, end = body(lines, i + 1, indent)
            language = directive["language"] if directive else "literal"
            if directive or not lines[i].lstrip().startswith(".. "):
                found.append(Block(language, start + 1, textwrap.dedent("\n".join(lines[start:end])), not_run))
                i = max(end, i + 1)
            else:
                i += 1  # another directive: what it holds is prose
            not_run = ""
        elif lines[i].lstrip().startswith(">>> "):
            end = next((j for j in range(i, len(lines)) if not lines[j].strip()), len(lines))
            found.append(Block("python", i + 1, textwrap.dedent("\n".join(lines[i:end])), not_run))
            i, not_run = end, ""
        else:
            not_run = not_run if not lines[i].strip() else ""
            i += 1
    return found


def body(lines, start, indent):
    """Bounds of the lines indented deeper than `indent`, without the directive's options and the blanks around."""
    end = start
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    while start < end and (not lines[start].strip() or OPTION.match(lines[start])):
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return start, end


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
        if block.language in {"python", "pycon", "python3"} and not block.not_run:
            run_block(block, page, namespace)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), relative(page))


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

.. note::

   .. code-block:: bash

      make test
"""


def test_the_block_reader_finds_all_blocks_and_their_lines():
    found = blocks_of(PAGE)
    assert [(b.language, b.line, b.not_run) for b in found] == [
        ("python", 7, ""),
        ("literal", 11, ""),
        ("python", 20, "has no file"),
        ("bash", 26, ""),
    ]
    assert found[0].code == "x = 1"
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
        ("Returns\n    -------", "Raises\n    ------", "no Returns section"),
        ("Do it.", "", "no summary"),
    ],
)
def test_the_docstring_checker_sees_a_planted_fault(old, new, complaint, monkeypatch):
    assert old in good.__doc__
    monkeypatch.setattr(good, "__doc__", good.__doc__.replace(old, new))
    assert [complaint in text for text in complaints("good", good)] == [True]


# --- change log and examples ------------------------------------------------------------------------------------------

FRAGMENT = re.compile(r"(\d+|\+[\w-]+)\.(feature|fix|change|doc|misc)(\.\d+)?\.rst")


def test_change_log_fragments_are_named_id_kind():
    others = {"README.rst", "template.rst"}
    names = {path.name for path in (DOC / "changes").iterdir()} - others
    wrong = sorted(name for name in names if not FRAGMENT.fullmatch(name))
    assert not wrong, f"{wrong}: see doc/changes/README.rst"
    assert others <= {path.name for path in (DOC / "changes").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=relative)
def test_examples_run(example, tmp_path):
    environment = os.environ | {"SKVAE_EXAMPLE_FAST": "1", "MPLBACKEND": "Agg"}
    run = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
