"""What a word means on one estimator it means on all: laws of every estimator that has a method."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    EASERecommender,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    LOCARecommender,
    MultVAERecommender,
    ProbabilisticPCA,
    VAETransformer,
    VariationalGaussianMixture,
)
from skvae._tensors import Table, by_row
from skvae.metrics import ndcg_at_k

DENSITIES = [
    GaussianMixtureEM(2, random_state=0),
    VariationalGaussianMixture(2, random_state=0),
    BernoulliMixtureEM(2, binarize=0.5, random_state=0),
    FactorAnalysisEM(1),
    ProbabilisticPCA(1),
    VAETransformer(1, hidden_layer_sizes=(3,), max_iter=2, random_state=0),
]


def draw(n=60, d=4, missing=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1)) @ np.ones((1, d)) + rng.normal(size=(n, d))
    X[rng.random(X.shape) < missing] = np.nan
    return X


@pytest.fixture(scope="module", params=DENSITIES, ids=lambda estimator: type(estimator).__name__)
def density(request):
    return request.param.fit(draw())


@pytest.mark.parametrize("n_samples", [2.7, 2.0, 0, -1, True, "3", None])
def test_a_number_of_rows_to_draw_is_whole_and_positive(density, n_samples):
    with pytest.raises(ValueError, match=f"Invalid value for 'n_samples': {n_samples!r}; .* n_samples >= 1"):
        density.sample(n_samples)


def test_whole_numbers_of_any_kind_are_drawn(density):
    for n_samples in (3, np.int32(3), np.uint8(3)):
        drawn = density.sample(n_samples, random_state=0)
        assert len(drawn[0] if isinstance(drawn, tuple) else drawn) == 3


def test_a_generator_of_ones_own_repeats_the_draws_of_sample(density):
    """Others at each call, the same in another run."""
    runs = []
    for _ in range(2):
        own = clone(density).set_params(random_state=np.random.RandomState(0)).fit(draw(missing=0.1))
        runs.append([own.sample(5), own.sample(5)])
    first, again = ([part[0] if isinstance(part, tuple) else part for part in run] for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_what_is_far_from_all_rows_is_the_strangest(density):
    X = draw(missing=0.1)
    score = density.anomaly_score(X)
    np.testing.assert_array_equal(score, -density.score_samples(X))
    if not isinstance(density, BernoulliMixtureEM):  # which reads that a cell is above 0.5, not by how much
        assert density.anomaly_score(np.vstack([X, [[40.0, -40.0, 40.0, -40.0]]])).argmax() == len(X)


@pytest.mark.parametrize(
    "estimator", [GaussianMixtureEM(2), BernoulliMixtureEM(2), FactorAnalysisEM(1), ProbabilisticPCA(1)], ids=repr
)
def test_a_column_that_only_rows_without_weight_have_is_empty(estimator):
    X = draw()
    X[:, 2] = np.where(np.arange(60) < 3, X[:, 2], np.nan)
    with pytest.raises(ValueError, match=r"every cell is NaN in column\(s\) 2; drop"):
        clone(estimator).fit(X, sample_weight=np.arange(60) >= 3)


CRITERIA = [estimator for estimator in DENSITIES if hasattr(estimator, "bic")]


@pytest.mark.parametrize("estimator", CRITERIA, ids=lambda estimator: type(estimator).__name__)
def test_criteria_weigh_rows_as_if_they_were_repeated(estimator):
    X, count = draw(), np.random.default_rng(1).integers(0, 4, 60)
    model = clone(estimator).fit(X)
    for criterion in (model.aic, model.bic):
        assert criterion(X, sample_weight=count) == pytest.approx(criterion(np.repeat(X, count, axis=0)), rel=1e-12)
        assert criterion(X, sample_weight=2) == pytest.approx(criterion(np.repeat(X, 2, axis=0)), rel=1e-12)
        assert criterion(X, sample_weight=1.0) == pytest.approx(criterion(X), rel=1e-12)
        with pytest.raises(ValueError, match="sample_weight"):
            criterion(X, sample_weight=count[:5])


@pytest.mark.parametrize("Class", [FactorAnalysisEM, ProbabilisticPCA])
def test_weights_without_rows_weigh_nothing(Class):
    with pytest.raises(ValueError, match="X is None; pass the rows too"):
        Class(1).fit(draw()).bic(sample_weight=np.ones(60))


# ------------------------------------------------------------------------------------------------------- missing cells
IMPUTERS = [*DENSITIES, AutoencoderTransformer(1, hidden_layer_sizes=(3,), max_iter=2, random_state=0)]
each_imputer = pytest.mark.parametrize("estimator", IMPUTERS, ids=lambda estimator: type(estimator).__name__)


def frame_of_many_dtypes():
    """0 and 1, which every estimator takes, in dtypes that can miss a cell, and one that cannot."""
    X = (draw(80, 7) > 0).astype(np.float64)
    X[::7, :6] = np.nan
    frame = pd.DataFrame(X, columns=list("abcdefg"), index=np.arange(80) * 2)
    dtypes = {"a": "Int64", "b": "float32", "c": "Float32", "d": "boolean", "e": "UInt8", "g": "int16"}
    return frame.astype(dtypes)


@each_imputer
def test_impute_keeps_the_dtypes_of_a_frame(estimator):
    frame = frame_of_many_dtypes()
    before = frame.copy()
    filled = clone(estimator).fit(frame).impute(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert list(filled.dtypes) == list(frame.dtypes)
    assert filled.index.equals(frame.index) and not filled.isna().any().any()
    seen = ~frame.isna().any(axis=1)
    pd.testing.assert_frame_equal(filled[seen], frame[seen])


@each_imputer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impute_gives_an_array_for_an_array_or_a_list(estimator, dtype):
    X = frame_of_many_dtypes().astype(dtype).to_numpy()
    model = clone(estimator).fit(X)
    filled = model.impute(X)
    assert type(filled) is np.ndarray and filled.dtype == dtype and not np.isnan(filled).any()
    np.testing.assert_allclose(model.impute(X.tolist()), filled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (GaussianMixtureEM(2, random_state=0), {}),
        (VariationalGaussianMixture(2, random_state=0), {}),
        (FactorAnalysisEM(1), {}),
        (VAETransformer(1, early_stopping=False, max_iter=5, random_state=0), {}),
        (BernoulliMixtureEM(2, categorical_features=[2], random_state=0), {}),
        (BernoulliMixtureEM(2, categorical_features=[2], random_state=0), {"strategy": "mean"}),
    ],
    ids=str,
)
def test_impute_finds_categories_among_those_of_the_column(estimator, settings):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.integers(0, 2, 80) * 1.0, "b": rng.integers(0, 2, 80) * 1.0})
    frame["c"] = pd.Categorical(rng.integers(0, 3, 80) * 2)
    frame.loc[frame.index[::4], "c"] = np.nan
    filled = estimator.fit(frame).impute(frame, **settings)
    assert filled["c"].dtype == frame["c"].dtype and not filled["c"].isna().any()
    assert len(set(filled["c"])) > 1


# ---------------------------------------------------------------------------------------------------- errors, warnings
FACES = [*DENSITIES, KMeansLite(2), AutoencoderTransformer(1), MultVAERecommender()]


@pytest.mark.parametrize("estimator", FACES, ids=lambda estimator: type(estimator).__name__)
def test_python_names_no_class_that_a_user_does_not_know(estimator):
    """`fit_covariance()` said "LinearGaussian.fit_covariance() missing ..."."""
    Class, own = type(estimator), f"{type(estimator).__name__}."
    methods = [name for name in dir(Class) if name[0] != "_" and inspect.isfunction(getattr(Class, name))]
    for name in {"fit", "fit_covariance", "partial_fit", "score", "predict", "transform"} & set(methods):
        with pytest.raises(TypeError, match=rf"^({own})?{name}\(\) missing .* positional argument"):
            getattr(clone(estimator), name)()


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianMixtureEM(2, max_iter=1, tol=1e-9),
        BernoulliMixtureEM(2, max_iter=1, tol=1e-9),
        FactorAnalysisEM(1, max_iter=1, tol=1e-9),
        KMeansLite(4),
        KMeansLite(2, init=draw()[:2], n_init=3),
    ],
    ids=str,
)
def test_a_warning_points_to_who_called_fit(estimator):
    X = np.ones((60, 4)) if isinstance(estimator, KMeansLite) and estimator.n_clusters == 4 else draw()
    with pytest.warns((ConvergenceWarning, RuntimeWarning)) as caught:
        estimator.fit(X)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianMixtureEM(2, max_iter=1, tol=1e-9),
        FactorAnalysisEM(1, max_iter=1, tol=1e-9),
        ProbabilisticPCA(1, max_iter=1, tol=1e-9),
        VAETransformer(5, hidden_layer_sizes=(3,), max_iter=1, random_state=0),
        MultVAERecommender(9, max_iter=1, random_state=0),
        LOCARecommender(EASERecommender(1.0), training_bandwidth=0.01, bandwidth=0.01, n_anchors=1, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_warning_points_to_the_users_line_whichever_way_it_took(estimator):
    """`fit_transform` of a recommender pointed into scikit-learn, whose mixin calls `fit`."""
    X = draw(missing=0.2) if isinstance(estimator, ProbabilisticPCA) else abs(draw())
    ways = [getattr(clone(estimator), name, None) for name in ("fit_transform", "fit_predict")]
    for fit in [*filter(None, ways), make_pipeline(estimator).fit, GridSearchCV(estimator, {}, cv=2).fit]:
        with pytest.warns((ConvergenceWarning, UserWarning)) as caught:
            fit(X)
        assert {warning.filename for warning in caught} == {__file__}


# -------------------------------------------------------------------------------------------------- rows out of batches
@pytest.mark.parametrize("size", [7, 100])
def test_what_is_said_of_batches_comes_back_in_the_order_of_the_rows(size):
    X = draw(missing=0.3)  # batches are by pattern of missing cells: not in the order of the rows
    batches = Table(X, torch.device("cpu")).batches(size)
    np.testing.assert_array_equal(by_row(batches, len(X), lambda batch: batch.X), np.nan_to_num(X))
    numbers = by_row(batches, len(X), lambda batch: batch.row, np.float32)
    np.testing.assert_array_equal(numbers, np.arange(len(X)))
    assert numbers.dtype == np.int64
    assert by_row(batches, len(X), lambda batch: batch.w, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    "estimator",
    [*DENSITIES, KMeansLite(2), AutoencoderTransformer(1), MultVAERecommender(2)],
    ids=lambda e: type(e).__name__,
)
def test_what_is_under_a_mask_is_not_read(estimator):
    """It entered the fit as a number, as it does in scikit-learn."""
    X = np.ma.array(abs(draw()), mask=np.arange(240).reshape(60, 4) == 13)
    with pytest.raises(ValueError, match=r"X\[3, 1\] is missing \(masked\); fill it"):
        clone(estimator).fit(X)
    with pytest.raises(ValueError, match=r"y_true\[3, 1\] is missing"):
        ndcg_at_k(X, X.data)


# ------------------------------------------------------------------------------------------------------ huge values
SVI = VAETransformer(1, hidden_layer_sizes=(3,), inference="svi", max_iter=2, random_state=0)
READERS = [*IMPUTERS, KMeansLite(2, random_state=0), SVI]
ROW_METHODS = ["transform", "posterior", "predict", "predict_proba", "score_samples", "elbo", "anomaly_score", "impute"]


@pytest.mark.parametrize("estimator", READERS, ids=lambda estimator: type(estimator).__name__)
def test_huge_values_of_float32_are_read_without_gaps_or_warnings(estimator):
    model = clone(estimator).fit(draw().astype(np.float32))
    gap = 0.0 if isinstance(estimator, KMeansLite) else np.nan
    rows = np.array([[1e25, gap, 0, 0], [-3e38, gap, 1e19, 0], [3e38, -3e38, 0, gap], [0, 0.5, 1, 0]], np.float32)
    for name in ROW_METHODS:
        if hasattr(model, name):
            result = getattr(model, name)(rows)
            assert not any(np.isnan(part).any() for part in (result if isinstance(result, tuple) else (result,))), name
    if isinstance(model, VariationalGaussianMixture):  # whose density has heavy tails
        assert (model.score_samples(rows)[:3] < -400).all()
    elif hasattr(model, "score_samples") and not isinstance(model, BernoulliMixtureEM):
        assert np.isneginf(model.score_samples(rows)[:3]).all() and np.isfinite(model.score_samples(rows)[3])


@pytest.mark.parametrize("scale", [1e19, 1e30])
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize(
    "estimator",
    [GaussianMixtureEM(2), VariationalGaussianMixture(2), FactorAnalysisEM(1), ProbabilisticPCA(1), KMeansLite(2)],
    ids=repr,
)
def test_squares_that_float32_does_not_hold_are_one_clear_error(estimator, missing, scale):
    X = draw(missing=0.0 if isinstance(estimator, KMeansLite) else missing) * scale
    with pytest.raises(ValueError, match=r"squares overflow in float32.*; scale it or give float64"):
        clone(estimator).fit(X.astype(np.float32))
    assert np.isfinite(clone(estimator).fit(X).score(X))


# ------------------------------------------------------------------------------------------------------------ progress
@pytest.mark.parametrize(
    ("estimator", "task", "reason"),
    [
        (KMeansLite(4, verbose=1, random_state=0), "Iteration", "Converged at iteration"),
        (FactorAnalysisEM(1, verbose=1), "iteration", "ended: converged"),
        (ProbabilisticPCA(1, max_iter=2, tol=0, verbose=1), "iteration", "ended: "),
        (GaussianMixtureEM(2, tol=1e-8, max_iter=1000, verbose=1, random_state=0), "iteration", "ended: converged"),
    ],
    ids=str,
)
def test_about_ten_lines_tell_the_first_and_the_last_iteration_and_why_it_ended(estimator, task, reason, capsys):
    X = draw(missing=0.0 if isinstance(estimator, KMeansLite) else 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = clone(estimator).fit(X)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Initialization" not in line]
    assert f"{task} 1" in lines[0] or isinstance(model, GaussianMixtureEM)
    assert f"{task} {model.n_iter_}" in lines[-2] and reason in lines[-1]
    assert len(lines) <= 13 or isinstance(model, GaussianMixtureEM)  # whose verbose_interval says how many


def told(capsys, model, X, **fit):
    model.fit(X, **fit)
    return capsys.readouterr().out.splitlines()


def test_networks_say_what_was_kept_and_why(capsys):
    X = draw()
    settings = {"hidden_layer_sizes": (3,), "random_state": 0, "verbose": 1}
    model = VAETransformer(1, max_iter=400, **settings)
    *lines, last, end, kept = told(capsys, model, X)
    assert "epoch 1/400" in lines[0] and len(lines) < 12
    assert "epoch " in last and ("ended: early stopping" in end or "ended: max_iter" in end)
    what = "kept the network of epoch" if model.nonlinear_ else "kept factor analysis"
    assert what in kept and "the network gains " in kept and "nats a row (standard error" in kept
    *_, end, kept = told(capsys, VAETransformer(1, early_stopping=False, max_iter=3, **settings), X)
    assert end.endswith("ended: max_iter was reached") and kept.endswith("kept the network of the last epoch, 3")
    lines = told(capsys, VAETransformer(1, hidden_layer_sizes=(), verbose=1), X)
    assert lines == ["[VAETransformer] kept the exact solution, which needs no epochs"]
    *_, kept = told(capsys, AutoencoderTransformer(1, early_stopping=True, max_iter=60, **settings), X)
    assert "kept the network of epoch " in kept or "kept the initial network" in kept


# ---------------------------------------------------------------------------------------------------- too many factors
@pytest.mark.parametrize("Class", [VAETransformer, AutoencoderTransformer])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_more_dimensions_than_columns_are_told(Class, method):
    with pytest.warns(UserWarning, match=r"n_components=5\) does not compress X: .* are 4 in all. Use fewer") as told:
        getattr(Class(5, hidden_layer_sizes=(3,), max_iter=1, random_state=0), method)(draw())
    assert [warning.filename for warning in told] == [__file__]


def test_a_sparse_or_denoising_autoencoder_may_have_more_codes_than_columns():
    for settings in ({"sparsity": (0.1, 0.1)}, {"denoising": "gaussian"}):
        AutoencoderTransformer(5, hidden_layer_sizes=(3,), max_iter=1, random_state=0, **settings).fit(draw())


def test_more_axes_than_columns_are_refused_as_principal_components_are():
    with pytest.raises(ValueError, match="n_components=5 asks for more factors than X has columns, n_features=4"):
        ProbabilisticPCA(5).fit(draw())


# ---------------------------------------------------------------------------------------------------- constant columns
@pytest.mark.parametrize(
    "estimator", [VAETransformer(1, hidden_layer_sizes=(3,), max_iter=2, random_state=0), FactorAnalysisEM(1)], ids=repr
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_score_names_columns_that_were_constant_in_the_fit_and_are_no_longer(estimator, dtype):
    frame = pd.DataFrame(draw(), columns=list("abcd")).assign(b=1.0, c=2.0).astype(dtype)
    model = clone(estimator).fit(frame)
    model.score(frame)  # without a warning
    other = frame.assign(b=np.where(np.arange(60) == 3, 1.5, 1.0)).astype(dtype)
    with pytest.warns(UserWarning, match=r"column\(s\) 'b' did not vary in the rows of the fit .* Drop them") as told:
        assert model.score(other) < -1e9
    assert [warning.filename for warning in told] == [__file__]


# ------------------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("estimator", [*IMPUTERS, KMeansLite(2, random_state=0)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("weight", [-np.ones(60), np.r_[-1, np.ones(59)]], ids=["all", "one"])
def test_negative_weights_are_refused_in_scikit_learns_words(estimator, weight):
    X, fitted = draw(), clone(estimator).fit(draw())
    methods = [("fit", clone(estimator)), ("partial_fit", clone(estimator)), ("score", fitted), ("bic", fitted)]
    for name, model in methods:
        if hasattr(model, name):
            with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
                getattr(model, name)(X, sample_weight=weight)
