"""Fitted state is plain, so that it can go to any file: arrays, numbers, short strings, and lists and dicts of them."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    EASERecommender,
    ELSARecommender,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    LOCARecommender,
    MultDAERecommender,
    MultVAERecommender,
    PopularityRecommender,
    ProbabilisticPCA,
    RecVAERecommender,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
    VotingRecommender,
)
from skvae.likelihoods import Poisson
from skvae.model_selection import StackedGridSearchCV

LONGEST = 1000  # characters of a string, such as the layers of a module of the user's
QUICK = {"max_iter": 2, "random_state": 0}


def numbers(n=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 1)) @ np.ones((1, 4)) + rng.normal(size=(n, 4))


def counts():
    return np.random.default_rng(0).poisson(2.0, (60, 4)).astype(float)


def table():
    """A frame of many dtypes, with missing cells."""
    rng, place = np.random.default_rng(0), np.arange(60) % 3
    frame = pd.DataFrame(
        {
            "income": rng.normal(size=60),
            "member": rng.random(60) < 0.5,
            "town": np.array(["Ulm", "Bonn", "Kiel"])[place],
            "grade": pd.Categorical(place, categories=[2, 0, 1], ordered=True),
            "age": pd.cut(pd.Series(rng.normal(size=60)), 3),
            "since": pd.Categorical(pd.date_range("2020", periods=3)[place]),
            "rooms": pd.array(place, dtype="Int64"),
            "asked": pd.Series(rng.random(60) < 0.5, dtype=object),
            "still": 1.0,
        }
    )
    frame.loc[3, ["income", "town", "asked"]] = None
    return frame


def module(n_in, n_out):
    """A network of the user's own."""
    return torch.nn.Sequential(torch.nn.Linear(n_in, 3), torch.nn.Tanh(), torch.nn.Linear(3, n_out))


CASES = [
    (GaussianMixtureEM(2, random_state=0), numbers),
    (GaussianMixtureEM(2, random_state=0, warm_start=True), numbers),
    (VariationalGaussianMixture(2, random_state=0), numbers),
    (VariationalGaussianMixture(2, covariance_type="tied", warm_start=True, random_state=0), numbers),
    (BernoulliMixtureEM(2, random_state=0), numbers),
    (BernoulliMixtureEM(2, categorical_features="all", random_state=0), counts),
    (FactorAnalysisEM(2), numbers),
    (ProbabilisticPCA(2), numbers),
    (VariationalFactorAnalysis(), numbers),
    (KMeansLite(3, random_state=0), numbers),
    (VAETransformer(1, **QUICK), numbers),
    (VAETransformer(1, early_stopping=False, warm_start=True, **QUICK), numbers),
    (VAETransformer(1, inference="svi", **QUICK), numbers),
    (VAETransformer(1, likelihood="auto", **QUICK), table),
    (VAETransformer(1, likelihood=[("poisson", np.arange(2)), ("multinomial", slice(2, 4))], **QUICK), counts),
    (VAETransformer(1, likelihood=[(Poisson(), [True, True, False, False]), ("gaussian", [2, 3])], **QUICK), counts),
    (VAETransformer(1, encoder=module, decoder=module, annealing=float, **QUICK), numbers),
    (AutoencoderTransformer(1, **QUICK), numbers),
    (AutoencoderTransformer(1, encoder=module, warm_start=True, **QUICK), numbers),
    (AutoencoderTransformer(1, hidden_layer_sizes=(), **QUICK), lambda: pd.DataFrame(numbers())),
    (MultVAERecommender(1, **QUICK), counts),
    (MultDAERecommender(1, **QUICK), counts),
    (ELSARecommender(1, **QUICK), counts),
    (RecVAERecommender(1, hidden_size=4, max_iter=QUICK["max_iter"], random_state=0), counts),
    (EASERecommender(), counts),
    (PopularityRecommender(), counts),
    (VotingRecommender([("dae", MultDAERecommender(1, **QUICK)), ("ease", EASERecommender())]), counts),
    (LOCARecommender(EASERecommender(), embedding=MultVAERecommender(1, **QUICK), n_anchors=2), counts),
]


def _id(case):
    """Text of an estimator without addresses, which differ from process to process; functions have names."""
    return None if callable(case) else re.sub(r" at 0x\w+", "", repr(case))[:60]


each_case = pytest.mark.parametrize(("estimator", "data"), CASES, ids=_id)


def state_of(estimator):
    """What a fit has set."""
    return {name: value for name, value in vars(estimator).items() if name not in estimator.get_params()}


def strangers(value, path):
    """Where a value is not plain, as sentences."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str | int):
                yield f"{path} has a key {key!r} of {type(key)}"
            yield from strangers(part, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from strangers(part, f"{path}[{place}]")
    elif isinstance(value, np.ndarray):
        words = value.dtype == object and all(isinstance(part, str) for part in value.flat)  # feature_names_in_
        if value.dtype.kind not in "fiubU" and not words:
            yield f"{path} is an array of {value.dtype}"
    elif isinstance(value, str):
        if len(value) > LONGEST:
            yield f"{path} has {len(value)} characters"
    elif isinstance(value, BaseEstimator):  # a member of a meta-estimator
        yield from strangers(state_of(value), f"{path}: {type(value).__name__}")
    elif value is not None and not isinstance(value, bool | int | float | np.bool | np.number):
        yield f"{path} is a {type(value)}"


@each_case
def test_fitted_state_is_plain(estimator, data):
    fitted = clone(estimator).fit(data())
    check_is_fitted(fitted)
    found = list(strangers(state_of(fitted), "state"))
    assert not found, "\n".join(found)
    assert b"pandas" not in pickle.dumps(state_of(fitted))


def test_the_best_estimator_of_a_stacked_search_is_plain():
    search = StackedGridSearchCV(VAETransformer(1, early_stopping=False, **QUICK), {"beta": [0.5, 1]}, cv=2)
    assert not list(strangers(state_of(search.fit(numbers()).best_estimator_), "state"))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": [1, {2, 3}]}, "state['a'][1] is a <class 'set'>"),
        ((None, pd.DataFrame()), "state[1] is a <class 'pandas"),
        ({"f": len}, "state['f'] is a <class 'builtin"),
        ({(1, 2): 0}, "has a key (1, 2)"),
        ([np.array([None])], "state[0] is an array of object"),
        (["x" * 1001], "state[0] has 1001 characters"),
        ({"p": Poisson()}, "state['p'] is a <class 'skvae.likelihoods.poisson.Poisson'>"),
    ],
)
def test_the_walk_sees_what_is_not_plain(value, complaint):
    (found,) = strangers(value, "state")
    assert complaint in found
