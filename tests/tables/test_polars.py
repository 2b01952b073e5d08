"""Frames of polars: what comes back has their container and dtypes, and says what frames of pandas say."""

import datetime
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.base import clone

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    ProbabilisticPCA,
    VAETransformer,
)
from skvae.tables.frames import cells_of, declared_levels, dtypes_of
from skvae.tables.learning import fit_columns

QUICK = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
IMPUTERS = [
    GaussianMixtureEM(2, random_state=0),
    BernoulliMixtureEM(2, binarize=0.5, random_state=0),
    FactorAnalysisEM(1),
    ProbabilisticPCA(1),
    VAETransformer(1, **QUICK),
    AutoencoderTransformer(1, **QUICK),
]


def draw(n=60, gaps=True):
    """Columns of every kind that may hold a latent variable's traces, each with some cells missing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    frame = pl.DataFrame(
        {
            "real": z + 0.1 * rng.normal(size=n),
            "short": pl.Series(z + rng.normal(size=n), dtype=pl.Float32),
            "whole": np.rint(3 * z).astype(np.int64),
            "byte": pl.Series(np.rint(np.clip(100 + 50 * z, 0, 255)).astype(int).tolist(), dtype=pl.UInt8),
            "truth": z > 0,
            "word": np.where(z > 0, "yes", "no"),
            "declared": pl.Series(np.where(z > 0.5, "x", "y").tolist(), dtype=pl.Enum(["x", "y", "z"])),
            "category": pl.Series(np.where(z > -0.5, "u", "v").tolist(), dtype=pl.Categorical),
            "day": [datetime.date(2026, 1, 1 + (value > 0)) for value in z],
        }
    )
    if not gaps:
        return frame
    number = pl.int_range(n)
    return frame.with_columns(
        pl.when((number + j) % 7 == 0).then(None).otherwise(pl.col(name)).alias(name)
        for j, name in enumerate(frame.columns)
    )


@pytest.mark.parametrize("estimator", IMPUTERS, ids=lambda estimator: type(estimator).__name__)
def test_impute_gives_back_the_container_and_the_dtypes(estimator):
    frame = draw().select("real", "short", "whole", "byte", "truth")
    if isinstance(estimator, BernoulliMixtureEM):
        frame = frame.with_columns(pl.col("whole").clip(0, 1), (pl.col("byte") > 100).cast(pl.UInt8))
    before = frame.clone()
    filled = clone(estimator).fit(frame).impute(frame)
    assert_frame_equal(frame, before)
    assert type(filled) is pl.DataFrame and filled.schema == frame.schema
    assert sum(filled.null_count().row(0)) == 0
    complete = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    assert_frame_equal(filled.filter(complete), frame.filter(complete))


def mixed_model(frame):
    kinds = [("gaussian", ["real", "short", "whole", "byte", "truth"])]
    kinds += [("categorical", ["word", "declared", "category", "day"])]
    return VAETransformer(1, likelihood=kinds, **QUICK).fit(frame)


def test_a_mixed_frame_comes_back_as_one_from_every_method():
    frame = draw()
    model = mixed_model(frame)
    filled, drawn = model.impute(frame), model.sample(5, random_state=0)
    back, again = model.inverse_transform(model.transform(frame)), model.reconstruct(frame)
    for table, n in ((filled, 60), (drawn, 5), (back, 60), (again, 60)):
        assert type(table) is pl.DataFrame and table.schema == frame.schema and len(table) == n
        assert sum(table.null_count().row(0)) == 0
    assert_frame_equal(back, again)


def test_a_pickled_model_still_draws_frames():
    model = mixed_model(draw())
    copy = pickle.loads(pickle.dumps(model))
    assert_frame_equal(copy.sample(5, random_state=0), model.sample(5, random_state=0))


def test_a_frame_of_polars_means_what_the_same_frame_of_pandas_means():
    frame = draw().drop("day", "category")
    twin = pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
    twin = twin.astype({"whole": "Int64", "byte": "UInt8", "truth": "boolean", "short": "float32"})
    twin["declared"] = pd.Categorical(twin["declared"], categories=["x", "y", "z"])
    ours, theirs = (VAETransformer(1, likelihood="auto", **QUICK).fit(X) for X in (frame, twin))
    np.testing.assert_array_equal(ours.transform(frame), theirs.transform(twin))
    np.testing.assert_array_equal(ours.score_samples(frame), ours.score_samples(twin))
    drawn, expected = ours.sample(9, random_state=0), theirs.sample(9, random_state=0)
    for name in frame.columns:
        floats = name in ("real", "short")
        assert drawn[name].to_list() == (pytest.approx(expected[name].tolist()) if floats else expected[name].tolist())
    assert ours.impute(frame)["word"].to_list() == theirs.impute(twin)["word"].tolist()


def test_a_frame_of_numbers_gives_arrays_where_one_of_pandas_does():
    frame = draw(gaps=False).select("real", "whole")
    model = VAETransformer(1, **QUICK).fit(frame)
    assert type(model.sample(3)) is np.ndarray
    assert model.reconstruct(frame).columns == ["real", "whole"]


def test_nulls_and_nans_are_missing():
    frame = pl.DataFrame({"f": [1.0, None, float("nan")], "i": [1, None, 3], "b": [True, None, False]})
    for j, gaps in enumerate([[0, 1, 1], [0, 1, 0], [0, 1, 0]]):
        assert cells_of(frame, j)[1].tolist() == [bool(gap) for gap in gaps]
    assert [dtype.kind for dtype in dtypes_of(frame)] == ["f", "i", "b"]


def test_declared_categories_are_levels_whether_observed_or_not():
    frame = draw().select("declared", "category")
    assert declared_levels(frame, 0) == ["x", "y", "z"] and declared_levels(frame, 1) == []
    columns = fit_columns(frame, "auto")
    assert columns.levels == {0: ["x", "y", "z"], 1: ["u", "v"]}


def test_categories_gain_a_level_that_they_lack():
    frame = draw().select("real", "declared")
    model = VAETransformer(1, likelihood="auto", **QUICK).fit(frame)
    short = pl.DataFrame({"real": [0.1, 3.0], "declared": pl.Series([None, None], dtype=pl.Enum(["q"]))})
    filled = model.impute(short)
    assert filled["declared"].dtype.categories.to_list()[0] == "q"
    assert set(filled["declared"]) <= {"x", "y", "z"}
    untyped = model.impute(pl.DataFrame({"real": [0.1], "declared": [None]}))
    assert untyped["declared"][0] in {"x", "y", "z"}
