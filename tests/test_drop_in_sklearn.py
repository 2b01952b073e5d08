"""scikit-learn's own tests of a class pass with ours in its place.

The installed test modules run in a process of their own, where `from sklearn.cluster import KMeans` gives KMeansLite. A
test counts if it is about the class (it names it, or is parametrised with it) and leans on nothing private of
scikit-learn's implementation (no attribute or function of the class's package that begins with an underscore).
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from unittest import mock

import pytest

# theirs, ours, the module of tests, how many of its tests must have run at least. Tests of what ours does otherwise, on
# purpose, stand with a reason in ON_PURPOSE. The one test of FactorAnalysis also checks a private function of theirs.
ROWS = [
    ("sklearn.cluster.KMeans", "skvae.KMeansLite", "sklearn.cluster.tests.test_k_means", 140),
    ("sklearn.mixture.GaussianMixture", "skvae.GaussianMixtureEM", "sklearn.mixture.tests.test_gaussian_mixture", 20),
    (
        "sklearn.mixture.BayesianGaussianMixture",
        "skvae.VariationalGaussianMixture",
        "sklearn.mixture.tests.test_bayesian_mixture",
        11,
    ),
    (
        "sklearn.decomposition.FactorAnalysis",
        "skvae.FactorAnalysisEM",
        "sklearn.decomposition.tests.test_factor_analysis",
        1,
    ),
]
ON_PURPOSE = {  # name of a test: why ours differs
    "test_gaussian_mixture_array_api_compliance": "it compares two calls of sample(), which draw other rows each",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "ours takes these arrays",
}
HARMLESS = {"_ortho_rotation"}  # private functions beside the class, which does not call them in our case


@pytest.fixture(scope="module")
def outcomes():
    """Of each module its tests, with the message of those that failed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("module", "at_least"), [row[2:] for row in ROWS], ids=[row[1] for row in ROWS])
def test_scikit_learns_tests_pass(module, at_least, outcomes):
    failed = {test: message for test, message in outcomes[module].items() if message}
    assert not failed, "\n\n".join(f"{test}: {message}" for test, message in failed.items())
    assert len(outcomes[module]) >= at_least


def base_name(test):
    return test.partition("[")[0]


class Counted:
    """A plugin of pytest that runs those tests that count, and writes down what became of them."""

    def __init__(self, name, ours):
        self.name, self.ours, self.found = name, ours, {}

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if self.is_about_ours(item) and not leans_on_private(item.function)]
        items[:] = [item for item in items if base_name(item.name) not in ON_PURPOSE]

    def is_about_ours(self, item):
        given = getattr(item, "callspec", None)
        return self.name in names_used(item.function) or (given and self.ours in list_of(given.params.values()))

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2]
        if report.passed and report.when == "call":
            self.found.setdefault(name, "")
        elif report.failed:
            self.found[name] = f"{report.when}: {report.longreprtext[-2000:]}"


def list_of(values):
    """The classes among the values of a parametrised test."""
    return [value for value in values if isinstance(value, type)]


def names_used(function):
    """Names of globals and attributes in a function and in those within it."""
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    return {name for code in codes for name in code.co_names}


def leans_on_private(function):
    """Whether a test uses an attribute, or a function of the package that it tests, whose name begins with `_`."""
    here, package = function.__module__, function.__module__.partition(".tests.")[0]
    for name in names_used(function):
        if name.startswith("_") and not name.startswith("__") and name not in HARMLESS:
            source = getattr(function.__globals__.get(name), "__module__", package)
            if source.startswith(package) and source != here:
                return True
    return False


def run(theirs, ours, module):
    """Run a module of scikit-learn's tests with another class; what became of each test."""
    (package, name), (own_package, own_name) = (path.rsplit(".", 1) for path in (theirs, ours))
    package, ours = import_module(package), getattr(import_module(own_package), own_name)
    ours = type(name, (ours,), {"__module__": ours.__module__})  # for messages, which name the class
    counted = Counted(name, ours)
    options = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull]
    with mock.patch.object(package, name, ours):  # from which the module imports it
        pytest.main([*options, "--assert=plain", "--pyargs", module], plugins=[counted])
    return counted.found


if __name__ == "__main__":
    found = {module: run(theirs, ours, module) for theirs, ours, module, _ in ROWS}
    print()
    print(json.dumps(found))
