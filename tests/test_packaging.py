"""The source distribution: what it takes along."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_TAKEN = {"MANIFEST.in", "build", "dist"}  # the first goes along of itself


def test_the_source_distribution_takes_all_that_tests_and_documentation_need():
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    taken = {name for line in lines if line and line[0] in ("include", "graft") for name in line[1:]}
    here = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - NOT_TAKEN
    assert {name for name in here if not name.endswith((".egg-info", ".png"))} <= taken


def test_every_tested_version_of_python_is_in_the_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if "Python :: 3." in line}
    assert {"3.11", "3.12", "3.13"} <= named and project["requires-python"] == ">=3.11"
