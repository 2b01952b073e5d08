"""Imports point down the list of layers, and no module touches what is global: read from the source, never run.

The checker itself is tested on small trees of source files that each break one rule.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skvae"

# Which parts of skvae a part may import, also inside functions. A part is a module or a folder directly in skvae/;
# within a folder, modules import each other freely. A part that is not listed here is an error: give it its row.
SEAMS = {"_tensors", "_reduce"}
GROUND = {"_hash", "_sparse", "_times", "_topk", "_compat", "_rounding", "_version"}
NETWORKS = {"networks", "user_modules"}
ALLOWED = {
    "__init__": {"estimators", "metrics", "model_selection", "datasets", "displays", "inspection", "_version"},
    "estimators": {"training", "tables", "engines", "models", "likelihoods", "elbo", "metrics"}
    | NETWORKS
    | SEAMS
    | GROUND,
    "training": {"tables", "engines", "models", "likelihoods", "elbo", "metrics"} | NETWORKS | SEAMS | GROUND,
    "tables": {"likelihoods"} | SEAMS | GROUND,
    "engines": {"elbo"} | SEAMS | GROUND,
    "models": {"likelihoods", "elbo"} | NETWORKS | SEAMS | GROUND,
    "likelihoods": SEAMS | GROUND,
    "elbo": SEAMS | GROUND,
    "user_modules": {"networks"} | SEAMS | GROUND,
    "networks": SEAMS | GROUND,
    "_tensors": GROUND,
    "_reduce": GROUND,
    "metrics": GROUND,
    "inspection": {"metrics"} | GROUND,
    "displays": {"inspection", "metrics"} | GROUND,
    "model_selection": {"estimators", "training", "tables", "metrics"} | SEAMS | GROUND,
    "datasets": GROUND,
    "_hash": set(),
    "_sparse": {"_compat"},
    "_times": {"_compat"},
    "_topk": set(),
    "_compat": set(),
    "_rounding": set(),
    "_version": set(),
}

# Third-party packages that a part may import at all. Parts that are not listed are free to import any dependency.
THIRD_PARTY = {
    "__init__": set(),
    "metrics": {"numpy", "scipy", "sklearn", "joblib"},
    "datasets": {"numpy", "scipy", "sklearn", "joblib"},
    "displays": {"numpy", "scipy", "sklearn", "matplotlib", "cycler"},
    "inspection": {"numpy", "scipy", "sklearn"},
    "_topk": {"numpy"},
    "_hash": set(),
    "_rounding": set(),
    "_version": set(),
    "engines": {"numpy", "torch"},
    "models": {"numpy", "scipy", "torch"},
}

# Never while a module is being imported: plots are optional, everywhere.
LAZY = {"matplotlib", "pandas", "polars", "rich"}

# Parts of scikit-learn that may change without notice; one module is the buffer against them.
UNSTABLE_SKLEARN = {"sklearn.callback", "sklearn.experimental"}

GLOBAL_SETTINGS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.set_rng_state",
    "torch.set_num_threads",
    "torch.set_num_interop_threads",
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_grad_enabled",
    "torch.use_deterministic_algorithms",
    "torch.set_float32_matmul_precision",
    "random.seed",
}
# The one place that may set a number of threads: that of its own workers.
SETS_THREADS = "_tensors/_workers.py"
OWN_NUMPY_RANDOM = {"RandomState", "Generator", "SeedSequence", "default_rng", "BitGenerator", "PCG64", "Philox"}
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
TORCH_DRAWS_WITHOUT_GENERATOR = {"rand_like", "randn_like", "randint_like"}
TORCH_DRAWS_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "log_normal_", "geometric_", "random_"}


# --- reading one file -------------------------------------------------------------------------------------------------


class Source:
    """The imports of one file, and the full dotted name of whatever it calls."""

    def __init__(self, path, root):
        self.path, self.root = path, root
        self.tree = ast.parse(path.read_text(), filename=str(path))
        parts = path.relative_to(root).with_suffix("").parts
        self.part = parts[0]
        self.package = ["skvae", *parts[:-1]]
        self.imports = list(self._read_imports())
        self.names = dict(self._bound_names())

    def _read_imports(self):
        """Yield (dotted name, node, whether it runs while the module is imported)."""
        for node, at_import in walk(self.tree, at_import=True):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node, at_import
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    yield f"{base}.{alias.name}", node, at_import
            elif isinstance(node, ast.Call) and last_name(node.func) in {"import_module", "__import__"}:
                name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                if isinstance(name, str) and not name.startswith("."):
                    yield name, node, at_import

    def _absolute(self, node):
        if not node.level:
            return node.module
        base = self.package[: len(self.package) - node.level + 1]
        return ".".join(base + ([node.module] if node.module else []))

    def _bound_names(self):
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name, f"{self._absolute(node)}.{alias.name}"

    def dotted(self, node):
        """`np.random.seed` as "numpy.random.seed"; None for what is no chain of names."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return base and f"{base}.{node.attr}"
        return None

    def at(self, node):
        return f"skvae/{self.path.relative_to(self.root).as_posix()}:{node.lineno}"


def walk(node, at_import):
    """Yield every node below, with whether it runs while the module is imported."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield child, at_import
        yield from walk(child, at_import and not deferred)


def is_type_checking(node):
    return isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"


def last_name(node):
    return getattr(node, "attr", getattr(node, "id", None))


# --- the rules: each yields sentences, each of which names a line and what to do -------------------------------------


def part_of(dotted):
    """The part of skvae a dotted name lies in: "models" for skvae.models.x.y, "__init__" for skvae itself."""
    names = dotted.split(".")[1:]
    if not names or (len(names) == 1 and names[0] not in ALLOWED):
        return "__init__"
    return names[0]


def layers(source):
    if source.part not in ALLOWED:
        yield f"skvae/{source.part} has no layer; give it a row in ALLOWED of tests/test_layering.py"
        return
    for dotted, node, _ in source.imports:
        if dotted.split(".")[0] != "skvae":
            continue
        target = part_of(dotted)
        if target != source.part and target not in ALLOWED[source.part]:
            yield f"{source.at(node)} imports {dotted}, which is not below {source.part}"


def third_party(source):
    allowed = THIRD_PARTY.get(source.part)
    for dotted, node, at_import in source.imports:
        package = dotted.split(".")[0]
        if package == "skvae" or package in sys.stdlib_module_names:
            continue
        if allowed is not None and package not in allowed:
            yield f"{source.at(node)} imports {package}; {source.part} may import {sorted(allowed) or 'nothing'}"
        if at_import and package in LAZY:
            yield f"{source.at(node)} imports {package} with the module; import it in the function that needs it"


def private_sklearn(source):
    if source.part == "_compat":
        return
    for dotted, node, _ in source.imports:
        if any(is_unstable(dotted.split(".")[:n]) for n in range(2, dotted.count(".") + 2)):
            yield f"{source.at(node)} imports {dotted}; go through skvae._compat"
    for node in ast.walk(source.tree):
        dotted = source.dotted(node) if isinstance(node, ast.Attribute) else None
        if dotted and is_unstable(dotted.split(".")):
            yield f"{source.at(node)} uses {dotted}; go through skvae._compat"


def is_unstable(names):
    private = names[-1].startswith("_") and not names[-1].startswith("__")
    return names[0] == "sklearn" and (private or ".".join(names) in UNSTABLE_SKLEARN)


def global_state(source):
    for node in ast.walk(source.tree):
        dotted = source.dotted(node) if isinstance(node, ast.Attribute | ast.Name) else None
        of_workers = (
            dotted == "torch.set_num_threads" and source.path.relative_to(source.root).as_posix() == SETS_THREADS
        )
        if dotted in GLOBAL_SETTINGS and not of_workers:
            yield f"{source.at(node)} names {dotted}, which changes the whole process"
        elif dotted and dotted.startswith("numpy.random.") and dotted.split(".")[2] not in OWN_NUMPY_RANDOM:
            yield f"{source.at(node)} names {dotted}, numpy's global generator; use check_random_state or a hash"
        if isinstance(node, ast.Call) and draws_globally(source, node):
            yield f"{source.at(node)} draws from torch's global generator; use keyed noise or pass generator="


def draws_globally(source, call):
    name = last_name(call.func)
    given = any(keyword.arg == "generator" for keyword in call.keywords)
    if source.dotted(call.func) in {f"torch.{draw}" for draw in TORCH_DRAWS}:
        return not given
    if source.dotted(call.func) in {f"torch.{draw}" for draw in TORCH_DRAWS_WITHOUT_GENERATOR}:
        return True
    return isinstance(call.func, ast.Attribute) and name in TORCH_DRAWS_IN_PLACE and not given


def strangers(sources):
    """Engines name no model, models name no engine: neither a module nor a public class of the other folder."""
    for here, there in (("engines", "models"), ("models", "engines")):
        known = {name for source in sources if source.part == there for name in names_of(source)}
        for source in sources:
            if source.part == here:
                for node in ast.walk(source.tree):
                    if isinstance(node, ast.Name | ast.Attribute) and last_name(node) in known - names_of(source):
                        yield f"{source.at(node)} names {last_name(node)} of {there}"


def names_of(source):
    # A model's module name is a fair word for an engine to avoid; "em" and "gradient" are everybody's words.
    modules = {source.path.stem} - {"__init__"} if source.part == "models" else set()
    return modules | {n.name for n in source.tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")}


RULES = [layers, third_party, private_sklearn, global_state]


def violations(root):
    sources = [Source(path, root) for path in sorted(root.rglob("*.py"))]
    found = [text for source in sources for rule in RULES for text in rule(source)]
    return found + list(strangers(sources))


# --- the tests --------------------------------------------------------------------------------------------------------


def test_skvae_keeps_every_rule():
    found = violations(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("_hash.py", "from skvae import _tensors", "not below _hash"),
        ("_tensors.py", "from .estimators import _base", "not below _tensors"),
        ("models/vae.py", "def f():\n    from skvae.engines.gradient import climb", "not below models"),
        ("models/vae.py", "from ..estimators._base import Base", "not below models"),
        ("models/vae.py", "import importlib\nimportlib.import_module('skvae.engines')", "not below models"),
        ("engines/em.py", "import skvae.models.clustering.kmeans", "not below engines"),
        ("metrics/_ranking.py", "from .._tensors import Rows", "not below metrics"),
        ("metrics.py", "import skvae", "not below metrics"),
        ("estimators/vae.py", "from skvae import VAETransformer", "not below estimators"),
        ("estimators/vae.py", "from skvae.datasets import make_interactions", "not below estimators"),
        ("plots.py", "import math", "has no layer"),
        ("metrics.py", "def f():\n    import torch", "imports torch"),
        ("datasets/_movielens.py", "import torch", "imports torch"),
        ("__init__.py", "import torch", "imports torch"),
        ("models/vae.py", "from sklearn.base import BaseEstimator", "imports sklearn"),
        ("estimators/vae.py", "import matplotlib.pyplot as plt", "imports matplotlib with the module"),
        ("estimators/vae.py", "class A:\n    from rich import print", "imports rich with the module"),
        ("estimators/vae.py", "from sklearn.utils._param_validation import Interval", "go through skvae._compat"),
        ("estimators/vae.py", "from sklearn.callback import ProgressBar", "go through skvae._compat"),
        ("estimators/vae.py", "from sklearn import experimental", "go through skvae._compat"),
        ("estimators/vae.py", "import sklearn.utils\nsklearn.utils._chunking.gen_batches", "go through skvae._compat"),
        ("engines/em.py", "import torch\ndef f():\n    torch.manual_seed(0)", "changes the whole process"),
        ("engines/em.py", "from torch import set_num_threads as s\ns(1)", "changes the whole process"),
        ("_tensors/_tables.py", "import torch\ntorch.set_num_threads(1)", "changes the whole process"),
        ("_tensors/_workers.py", "import torch\ntorch.manual_seed(1)", "changes the whole process"),
        ("metrics.py", "import numpy as np\nnp.random.seed(0)", "numpy's global generator"),
        ("metrics.py", "from numpy.random import rand\nrand(3)", "numpy's global generator"),
        ("networks.py", "import torch\ntorch.randn(3)", "torch's global generator"),
        ("networks.py", "import torch as t\nt.rand_like(x)", "torch's global generator"),
        ("networks.py", "W.normal_(0, 1)", "torch's global generator"),
        ("networks.py", "import torch\ntorch.nn.init.normal_(W)", "torch's global generator"),
    ],
)
def test_the_checker_sees_a_planted_violation(tmp_path, name, text, complaint):
    found = violations(write_tree(tmp_path, {name: text}))
    assert len(found) == 1, found
    assert complaint in found[0]
    assert f"skvae/{name.split('/')[0].removesuffix('.py')}" in found[0]


def test_the_checker_sees_an_engine_that_names_a_model(tmp_path):
    tree = {"models/vae.py": "class Vae: ...", "engines/em.py": "def f(model):\n    return isinstance(model, Vae)"}
    assert violations(write_tree(tmp_path, tree)) == ["skvae/engines/em.py:2 names Vae of models"]


def test_the_checker_sees_a_model_that_names_an_engine(tmp_path):
    tree = {"engines/em.py": "class Ascent: ...", "models/vae.py": "step = Ascent()"}
    assert violations(write_tree(tmp_path, tree)) == ["skvae/models/vae.py:1 names Ascent of engines"]


def test_the_checker_accepts_what_the_layers_allow(tmp_path):
    tree = {
        "__init__.py": "def __getattr__(name):\n    from .estimators import vae\n    return vae",
        "estimators/vae.py": (
            "import numpy as np\nimport torch\nfrom sklearn.utils.validation import check_random_state\n"
            "from . import _base\nfrom .. import _compat\nfrom ..engines.gradient import climb\n"
            "from ..metrics import ndcg\n"
            "rng = np.random.RandomState(0)\nrng.normal(3)\nnoise = torch.randn(3, generator=torch.Generator())\n"
            "def plot():\n    import matplotlib.pyplot as plt"
        ),
        "engines/gradient.py": "import torch\nfrom .._reduce import add\nfrom ..elbo import Bound",
        "models/vae.py": "from typing import TYPE_CHECKING\nfrom .mlp import mlp\nif TYPE_CHECKING:\n    import torch",
        "_tensors/_workers.py": "import torch\ntorch.set_num_threads(1)",
        "_compat.py": "from sklearn.utils._param_validation import Interval\nfrom sklearn.callback import ProgressBar",
    }
    assert violations(write_tree(tmp_path, tree)) == []


def test_importing_skvae_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, skvae, skvae.metrics, skvae.model_selection, skvae.datasets, skvae.inspection, skvae.displays\n"
        "print(*sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
