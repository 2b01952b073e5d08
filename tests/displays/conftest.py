"""Fits that several tests draw, and no figure left open."""

import matplotlib.pyplot as plt
import pytest
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, GaussianMixtureEM, VAETransformer


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def wine():
    """The measurements as a standardised DataFrame."""
    return StandardScaler().set_output(transform="pandas").fit_transform(load_wine(as_frame=True).data)


@pytest.fixture(scope="session")
def growers():
    return load_wine().target


@pytest.fixture(scope="session")
def mixture(wine):
    return GaussianMixtureEM(3, reg_covar=1e-3, random_state=0).fit(wine)


@pytest.fixture(scope="session")
def factors(wine):
    return FactorAnalysisEM(3, rotation="oblimin").fit(wine)


@pytest.fixture(scope="session")
def vae(wine):
    return VAETransformer(3, early_stopping=False, max_iter=8, annealing="linear", random_state=0).fit(wine)
