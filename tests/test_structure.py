"""The size of folders, files, classes and functions: read from the source, never run."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skvae"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})


def relative(path):
    return path.relative_to(PACKAGE.parent).as_posix()


def definitions(kind):
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield f"{relative(path)}:{node.lineno} {node.name}", node


def code_lines(function):
    """Lines of the body that hold code: no docstring, no blank line, no comment."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return {line for statement in body for node in ast.walk(statement) for line in lines_of(node)}


def lines_of(node):
    return {node.lineno, node.end_lineno} if hasattr(node, "lineno") else set()


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_a_folder_has_at_most_twelve_files(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_has_at_most_600_lines(path):
    assert len(path.read_text().splitlines()) <= 600


def test_a_class_has_at_most_24_methods():
    counts = {
        name: sum(isinstance(node, ast.FunctionDef) for node in cls.body) for name, cls in definitions(ast.ClassDef)
    }
    assert {name: n for name, n in counts.items() if n > 24} == {}


def test_nine_of_ten_functions_have_at_most_16_lines():
    lengths = sorted(len(code_lines(function)) for _, function in definitions(ast.FunctionDef))
    assert lengths[len(lengths) * 9 // 10] <= 16
