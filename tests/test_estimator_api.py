"""scikit-learn's own checks on every public estimator: all pass, none is expected to fail, none is skipped."""

import inspect
import unittest

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import skvae

PUBLIC = [getattr(skvae, name) for name in skvae.__all__]
ESTIMATORS = [found() for found in PUBLIC if inspect.isclass(found) and issubclass(found, BaseEstimator)]
LEARNING = [estimator for estimator in ESTIMATORS if getattr(estimator, "max_iter", None) == "auto"]
AS_THEY_ARE = [clone(estimator) for estimator in LEARNING if not isinstance(estimator, skvae.GANGenerator)]

# Most checks look at containers, names, errors and what a method may not change, not at what was learnt: a few epochs
# will do. Whole fits take a second, many times in each check; the checks in AFTER_WHOLE_FITS have them.
QUICK = skvae.MultVAERecommender(max_iter=3)
for estimator in ESTIMATORS:
    if estimator in LEARNING:
        estimator.set_params(max_iter=3)
    elif isinstance(estimator, skvae.LOCARecommender):
        estimator.set_params(estimator=QUICK, embedding=QUICK, n_anchors=2)
    elif isinstance(estimator, skvae.VotingRecommender):
        estimator.set_params(estimators=[("vae", QUICK), ("ease", skvae.EASERecommender())])
AFTER_WHOLE_FITS = ["check_fit_idempotent", "check_methods_subset_invariance"]

# Checks that scikit-learn leaves out when a tag, a missing method or the environment says so.
EASILY_LOST = {
    "check_array_api_input",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_transformer_preserve_dtypes",
}

# Estimators for which NaN is a missing value.
TAKES_NAN = {
    "AutoencoderTransformer",
    "BernoulliMixtureEM",
    "FactorAnalysisEM",
    "GaussianMixtureEM",
    "ProbabilisticPCA",
    "VAETransformer",
    "VariationalGaussianMixture",
}

# Checks that scikit-learn runs on its own estimators, beyond those that it asks of others.
OF_ITS_OWN = [
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_global_output_transform_pandas",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]

DRAWS_GLOBALLY = {"check_methods_sample_order_invariance"}  # the check itself, from np.random


def _name(check):
    return getattr(check, "func", check).__name__


def _pass(check, *arguments):
    state = np.random.get_state() if _name(check) in DRAWS_GLOBALLY else None  # noqa: NPY002 (to put it back)
    try:
        check(*arguments)
    except (unittest.SkipTest, pytest.skip.Exception) as skipped:
        pytest.fail(f"{_name(check)} was skipped ({skipped}); a check that does not run has not passed.")
    finally:
        if state is not None:
            np.random.set_state(state)  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:binarize=0 makes")  # their tables hold positive numbers
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # one check has 16 rows, of which 4 are distinct
@pytest.mark.filterwarnings("ignore:.* found no noise")  # as many factors as columns, few rows
@pytest.mark.filterwarnings("ignore:.* no layer above the first")  # what factor analysis is kept of, for few rows
@parametrize_with_checks([*ESTIMATORS, skvae.VAETransformer((2, 1), hidden_layer_sizes=(4,), max_iter=3)])
def test_scikit_learns_checks_pass(estimator, check):
    _pass(check, estimator)


@pytest.mark.filterwarnings("ignore:.* found no noise")
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # they mix frames and arrays
@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        pytest.param(name, estimator, id=f"{name}-{type(estimator).__name__}")
        for name in OF_ITS_OWN
        for estimator in ESTIMATORS
        if hasattr(estimator, "transform") or "transform" not in name
    ],
)
def test_scikit_learns_checks_of_its_own_estimators_pass(name, estimator):
    _pass(getattr(estimator_checks, name), type(estimator).__name__, clone(estimator))


@pytest.mark.parametrize("name", AFTER_WHOLE_FITS)
@pytest.mark.parametrize("estimator", AS_THEY_ARE, ids=lambda estimator: type(estimator).__name__)
def test_scikit_learns_checks_pass_after_whole_fits(estimator, name):
    _pass(getattr(estimator_checks, name), type(estimator).__name__, estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_no_tag_switches_checks_off(estimator):
    tags = get_tags(estimator)
    assert not (tags.no_validation or tags.non_deterministic or tags._skip_test)
    assert tags.requires_fit
    # NaN as missing drops the check that it is refused; whoever says so is tested on NaN and infinity on its own
    assert tags.input_tags.allow_nan == (type(estimator).__name__ in TAKES_NAN)


def test_the_recommender_takes_part_in_the_checks_that_are_easily_lost():
    taken = {_name(check) for _, check in estimator_checks.estimator_checks_generator(skvae.MultVAERecommender())}
    assert not EASILY_LOST - taken


def _needs_a_fit(name):
    return not name.startswith(("_", "fit", "partial_fit", "get_params", "get_metadata", "set_"))


METHODS = [
    pytest.param(estimator, name, id=f"{type(estimator).__name__}.{name}")
    for estimator in ESTIMATORS
    for name, method in inspect.getmembers(type(estimator), callable)
    if _needs_a_fit(name) and hasattr(estimator, name)  # not what depends on a parameter or another method
]


@pytest.mark.parametrize(("estimator", "name"), METHODS)
def test_every_method_of_an_unfitted_estimator_says_so(estimator, name):
    method = getattr(clone(estimator), name)
    required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty and p.kind < 2]
    with pytest.raises(NotFittedError):
        method(*[np.ones((4, 3)) for _ in required])


def _documented(estimator):
    """Names in the docstring's section Attributes, of which one line may have several."""
    section = inspect.getdoc(type(estimator)).split("\nAttributes\n----------\n")[1].split("\n\n")[0]
    heads = [line.split(" : ")[0] for line in section.splitlines() if " : " in line and not line.startswith(" ")]
    return {name for head in heads for name in head.split(", ")}


@pytest.mark.filterwarnings("ignore:.* found no noise")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_what_a_fit_leaves_is_documented(estimator):
    estimator = clone(estimator)
    X = np.random.default_rng(0).integers(0, 2, (60, 6)).astype(float)
    estimator.fit(X)
    left = {name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")}
    only_sometimes = {"feature_names_in_"}
    assert left - only_sometimes <= _documented(estimator)
    assert all(hasattr(estimator, name) for name in _documented(estimator) - only_sometimes)
