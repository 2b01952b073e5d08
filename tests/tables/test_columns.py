"""The road between a table and the model layout: what goes in comes out, scales are counted, bad data are named."""

import pickle
import re
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from pytest import approx
from scipy.stats import norm

from skvae import likelihoods
from skvae.likelihoods import LIKELIHOODS
from skvae.tables import encoding, learning
from skvae.tables.column_likelihoods import model_likelihood
from skvae.tables.decoding import decode, fill_missing, restore
from skvae.tables.encoding import as_numbers, encode, encoder_inputs, log_jacobian
from skvae.tables.learning import fit_columns, read_columns

N = 40


def mixed_frame(gaps=True):
    """A column of every type that frames have, out of order by likelihood, with some cells missing."""
    rng = np.random.default_rng(0)
    flag, level = rng.random(N) < 0.4, rng.choice(["lo", "mid", "hi"], N)
    frame = pd.DataFrame(
        {
            "income": 1e5 + 3e4 * rng.normal(size=N),
            "member": flag,
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], N),
            "age": rng.integers(18, 90, N),
            "grade": pd.Categorical(level, categories=["lo", "mid", "hi"], ordered=True),
            "height": rng.normal(1.7, 0.1, N).astype(np.float32),
            "asked": flag.astype(object),
            "rooms": pd.array(rng.integers(1, 6, N), dtype="Int64"),
            "owner": pd.array(flag, dtype="boolean"),
            "floor": pd.Categorical(rng.integers(0, 3, N)),
            "shoe": pd.array(rng.normal(40, 2, N), dtype="Float64"),
        },
        index=[f"row {i}" for i in range(N)],
    )
    if gaps:
        for name in frame.columns:
            if name not in ("member", "age"):  # which have no room for one
                frame.loc[rng.random(N) < 0.2, name] = None
    return frame


def counts(n=N, d=3, seed=0):
    return np.random.default_rng(seed).poisson(3.0, size=(n, d)).astype(float)


def data_for(likelihood):
    """An array that suits, with missing cells."""
    rng = np.random.default_rng(1)
    X = {
        "gaussian": lambda: 50 + 7 * rng.normal(size=(N, 3)),
        "bernoulli": lambda: (rng.random((N, 3)) < 0.3).astype(float),
        "categorical": lambda: rng.choice([-1.5, 2.0, 7.0], (N, 3)),
    }.get(likelihood, counts)()
    X[rng.random(X.shape) < 0.2] = np.nan
    return X


CONTAINERS = {
    "array": lambda X: X,
    "list": lambda X: X.tolist(),
    "objects": lambda X: np.where(np.isnan(X), None, X.astype(object)),
    "frame": lambda X: pd.DataFrame(X, columns=["a", "b", "c"]),
    "nullable": lambda X: pd.DataFrame(X, columns=["a", "b", "c"]).convert_dtypes(),
}


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_decode_undoes_encode_on_observed_cells(likelihood, container):
    X = data_for(likelihood)
    given = CONTAINERS[container](X)
    columns = fit_columns(given, likelihood)
    numbers = as_numbers(given, columns)
    x, observed = encode(numbers, columns)
    back, seen = decode(x, columns), ~np.isnan(X)
    np.testing.assert_allclose(back[seen], numbers[seen], rtol=1e-13)
    assert x.shape == observed.shape == (N, columns.width) and not x[~observed].any()
    np.testing.assert_array_equal(observed, seen[:, columns.source])
    filled = np.asarray(fill_missing(given, numbers, back, columns), dtype=float)
    np.testing.assert_array_equal(filled[seen], X[seen])
    assert np.isfinite(filled).all()


def test_a_frame_of_every_type_comes_back_as_it_was():
    frame = mixed_frame(gaps=False)
    columns = fit_columns(frame, "auto")
    x, observed = encode(as_numbers(frame, columns), columns)
    assert observed is None
    back = restore(decode(x, columns), columns, like=frame)
    pd.testing.assert_frame_equal(back, frame, rtol=1e-12)
    pd.testing.assert_frame_equal(restore(decode(x, columns), columns), frame.reset_index(drop=True), rtol=1e-12)


def test_filling_a_frame_changes_missing_cells_only_and_no_dtype():
    frame = mixed_frame()
    before = frame.copy()
    columns = fit_columns(frame, "auto")
    numbers = as_numbers(frame, columns)
    answers = as_numbers(mixed_frame(gaps=False), columns)
    filled = fill_missing(frame, numbers, answers, columns)
    pd.testing.assert_frame_equal(frame, before)
    truth = mixed_frame(gaps=False)
    pd.testing.assert_frame_equal(filled, truth.astype(dict(frame.dtypes)), rtol=1e-6)


def test_filling_rounds_where_the_dtype_demands_it():
    frame = pd.DataFrame({"k": pd.array([1, None, 4], dtype="Int64"), "b": [True, None, False], "x": [1.0, np.nan, 4]})
    columns = fit_columns(frame, [("poisson", "k"), ("bernoulli", "b"), ("gaussian", "x")])
    filled = fill_missing(frame, as_numbers(frame, columns), np.full((3, 3), 2.7), columns)
    assert filled.loc[1].tolist() == [3, True, 2.7] and filled["b"].tolist() == [True, True, False]
    assert list(filled.dtypes) == list(frame.dtypes)


def test_booleans_are_filled_as_such_where_a_gap_made_them_objects():
    columns = fit_columns(pd.DataFrame({"b": [True, False]}), "auto")
    gaps = pd.DataFrame({"b": [True, None]})
    filled = fill_missing(gaps, as_numbers(gaps, columns), np.full((2, 1), 0.6), columns)
    assert filled["b"].dtype == object and filled["b"][1] is True


def test_restored_integers_stay_within_their_dtype():
    frame = pd.DataFrame({"pixel": np.array([0, 255], dtype=np.uint8), "n": [0, 2**62]})
    columns = fit_columns(frame)
    back = restore(np.array([[-3.0, -1e30], [300.2, 1e30]]), columns)
    assert back["pixel"].tolist() == [0, 255] and back["n"].tolist() == [-(2**63), 2**63 - 1024]


def test_categories_gain_the_level_that_fills_them():
    frame = pd.DataFrame({"c": pd.Categorical(["p", "q", None])})
    columns = fit_columns(frame, "auto")
    other = pd.DataFrame({"c": pd.Categorical(["p", None])})
    filled = fill_missing(other, as_numbers(other, columns), np.array([[0.0], [1.0]]), columns)
    assert filled["c"].tolist() == ["p", "q"] and list(filled["c"].cat.categories) == ["p", "q"]


def test_lists_and_arrays_of_strings_are_tables_too():
    rows = [[1.5, "a", True], [2, None, None], [None, "b", False]]
    columns = fit_columns(rows, "auto")
    assert [block.likelihood for block in columns.blocks] == ["gaussian", "categorical", "bernoulli"]
    filled = fill_missing(rows, as_numbers(rows, columns), np.array([[0, 1, 1.0]] * 3), columns)
    assert filled.tolist() == [[1.5, "a", True], [2, "b", 1.0], [0.0, "b", False]]
    assert filled[0, 2] is True
    assert restore(np.array([[1.0]]), fit_columns(np.array([["u"], ["v"]]), "auto")).tolist() == [["v"]]


def test_missing_is_nan_none_or_na():
    frame = pd.DataFrame({"c": ["a", None, np.nan, pd.NA, "b"]}, dtype=object)
    for X in (frame, frame.to_numpy()):
        np.testing.assert_array_equal(as_numbers(X, fit_columns(X, "auto"))[:, 0], [0, np.nan, np.nan, np.nan, 1])


def test_arrays_of_numbers_are_not_copied_and_float32_stays():
    X = np.random.default_rng(0).normal(size=(N, 3))
    assert np.shares_memory(as_numbers(X, fit_columns(X)), X)
    for given in (X.astype(np.float32), pd.DataFrame(X.astype(np.float32))):
        columns = fit_columns(given)
        numbers = as_numbers(given, columns)
        x, observed = encode(numbers, columns)
        inputs, back = encoder_inputs(x, observed, columns), decode(x, columns)
        assert numbers.dtype == x.dtype == inputs.dtype == back.dtype == np.float32
    integers = as_numbers([[1, 2], [3, 5]], fit_columns([[1, 2], [3, 5]]))
    assert integers.dtype == np.float64


# --- layout -----------------------------------------------------------------------------------------------------------


def test_auto_reads_the_types_of_a_frame():
    columns = fit_columns(mixed_frame(), "auto")
    kinds = {mixed_frame().columns[j]: block.likelihood for block in columns.blocks for j in block.columns}
    assert {name for name, kind in kinds.items() if kind == "gaussian"} == {"income", "age", "height", "rooms", "shoe"}
    assert {name for name, kind in kinds.items() if kind == "bernoulli"} == {"member", "asked", "owner"}
    assert columns.levels[2] == ["Bonn", "Kiel", "Ulm"] and columns.levels[9] == [0, 1, 2]
    numbers = np.arange(6.0).reshape(3, 2)
    for X in (pd.DataFrame(numbers, dtype=object), numbers > 2):
        assert [block.likelihood for block in fit_columns(X, "auto").blocks] == ["gaussian"]


def test_blocks_are_neighbours_and_cover_the_layout():
    columns = fit_columns(mixed_frame(), "auto")
    assert [block.start for block in columns.blocks] + [columns.width] == [0] + [block.stop for block in columns.blocks]
    assert columns.width == 5 + 3 + 3 * 3 == sum(sum(block.sizes) for block in columns.blocks)
    np.testing.assert_array_equal(np.unique(columns.source), np.arange(columns.n_features))


def test_columns_are_named_in_any_way_and_entries_in_any_order():
    frame = pd.DataFrame(counts(d=5), columns=list("abcde"))
    ways = [
        [("poisson", ["b", "d"]), ("gaussian", ["a", "c", "e"])],
        [("gaussian", slice(0, None, 2)), ("poisson", [1, -2])],
        [("gaussian", [True, False] * 2 + [True]), ("poisson", "b"), ("poisson", 3), ("bernoulli", [])],
        (("poisson", frame.columns[[1, 3]]), ("gaussian", frame.columns.isin(["a", "c", "e"]))),
    ]
    architectures = [fit_columns(frame, way).architecture() for way in ways]
    assert all(architecture == architectures[0] for architecture in architectures)
    assert architectures[0]["likelihood"] == [("gaussian", "0, 2, 4"), ("poisson", "1, 3")]
    assert fit_columns(counts(d=3), [("poisson", ["b", "a"]), ("gaussian", "c")], names=["a", "b", "c"]).width == 3


def test_each_multinomial_entry_is_a_block_of_its_own():
    X = counts(d=4)
    columns = fit_columns(X, [("multinomial", [0, 2]), ("multinomial", [1, 3])])
    assert [block.columns for block in columns.blocks] == [(0, 2), (1, 3)]
    parts = model_likelihood(columns).parts
    assert [part.total for part, _, _ in parts] == approx([X[:, [0, 2]].sum(1).mean(), X[:, [1, 3]].sum(1).mean()])


def test_the_likelihood_is_that_of_the_blocks():
    classes = {
        "gaussian": likelihoods.Gaussian,
        "bernoulli": likelihoods.Bernoulli,
        "categorical": likelihoods.Categorical,
        "multinomial": likelihoods.Multinomial,
        "poisson": likelihoods.Poisson,
        "negative_binomial": likelihoods.NegativeBinomial,
    }
    for kind in LIKELIHOODS:
        assert type(model_likelihood(fit_columns(data_for(kind), kind))) is classes[kind]
    columns = fit_columns(mixed_frame(), "auto")
    parts = model_likelihood(columns).parts
    assert [type(part) for part, _, _ in parts] == [classes[block.likelihood] for block in columns.blocks]
    assert [(start, stop) for _, start, stop in parts] == [(block.start, block.stop) for block in columns.blocks]
    assert parts[2][0].sizes == (3, 3, 3)


def test_architecture_tells_apart_what_changes_the_parameters():
    X = data_for("categorical")
    same = fit_columns(X, "categorical").architecture()
    assert same == fit_columns(X[::-1], "categorical").architecture()
    other = fit_columns(np.where(X == 7, np.nan, X), "categorical").architecture()
    assert [name for name in same if same[name] != other[name]] == ["levels"]
    gaussian = [fit_columns(X, noise=noise).architecture() for noise in ("diag", "isotropic", 0.5)]
    assert len({architecture["noise"] for architecture in gaussian}) == 3
    assert fit_columns(X * 9, noise=0.5).architecture() == gaussian[2]  # scales are not part of it


# --- scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["diag", "isotropic", 0.3])
def test_the_jacobian_is_what_standardising_costs(noise):
    X = data_for("gaussian") * [1, 1e-4, 1e5]
    columns = fit_columns(X, noise=noise)
    x, observed = encode(X, columns)
    mean, spread = np.array([3.0, 0.2, 1e5]), np.array([2.0, 1e-4, 3e5])
    raw = norm.logpdf(X, mean, spread)
    inner = norm.logpdf(x, (mean - columns.location) / columns.scale, spread / columns.scale)
    difference = np.where(observed, raw - inner, 0).sum(1)
    np.testing.assert_allclose(log_jacobian(X, columns), difference, rtol=1e-9)


def test_only_gaussian_columns_count_in_the_jacobian():
    frame = mixed_frame()
    columns = fit_columns(frame, "auto")
    numbers = frame[["income", "age", "height", "rooms", "shoe"]].astype(float)
    expected = -(numbers.notna() * np.log(numbers.std(ddof=0))).sum(axis=1)
    np.testing.assert_allclose(log_jacobian(as_numbers(frame, columns), columns), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("noise", ["diag", "isotropic"])
def test_the_layout_does_not_depend_on_units(noise, scale):
    X = data_for("gaussian")
    plain, scaled = fit_columns(X, noise=noise), fit_columns(scale * X, noise=noise)
    np.testing.assert_allclose(encode(scale * X, scaled)[0], encode(X, plain)[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaled.scale, scale * plain.scale, rtol=1e-9)
    fixed = model_likelihood(fit_columns(scale * X, noise=0.5 * scale**2)).noise
    np.testing.assert_allclose(fixed, model_likelihood(fit_columns(X, noise=0.5)).noise, rtol=1e-9)


def test_a_large_offset_costs_no_more_than_the_rounding_of_the_data():
    X = data_for("gaussian")
    near, far = fit_columns(X), fit_columns(X + 1e8)
    np.testing.assert_allclose(encode(X + 1e8, far)[0], encode(X, near)[0], atol=1e-8)
    assert abs(far.location - 1e8 - near.location).max() <= np.spacing(1e8)


def test_scales_are_those_of_observed_cells():
    X = data_for("gaussian")
    diag, tied = fit_columns(X), fit_columns(X, noise="isotropic")
    np.testing.assert_allclose(diag.location, np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(diag.scale, np.nanstd(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(tied.location, diag.location)
    np.testing.assert_allclose(tied.scale, np.sqrt(np.nanvar(X, axis=0).mean()), rtol=1e-12)
    assert model_likelihood(fit_columns(X, noise=2.0)).noise == approx(2.0 / np.nanvar(X, axis=0).mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8])
def test_constant_columns_stay_outside(value):
    X = data_for("gaussian")
    X[:, 1] = value
    columns, without = fit_columns(X), fit_columns(X[:, [0, 2]])
    x, observed = encode(X, columns)
    np.testing.assert_array_equal(x, encode(X[:, [0, 2]], without)[0])
    assert columns.constants == {1: value} and columns.width == observed.shape[1] == 2
    assert (decode(x, columns)[:, 1] == value).all()
    density = log_jacobian(X, columns) - log_jacobian(X[:, [0, 2]], without)
    np.testing.assert_allclose(density, norm.logpdf(0, 0, 1e-6), rtol=1e-12)


def test_constant_columns_stay_inside_where_scales_are_shared_or_nothing_else_is_left():
    X = data_for("gaussian")
    X[:, 1] = 3.0
    assert fit_columns(X, noise="isotropic").width == 3
    assert (fit_columns(np.full((5, 2), 3.0), noise="isotropic").scale == 1).all()
    assert fit_columns(np.full((5, 2), 3.0)).width == 1


def test_weights_are_repeats():
    frame = mixed_frame()
    weight = np.random.default_rng(3).integers(0, 4, N)
    likelihood = [("poisson", "rooms"), ("negative_binomial", "age"), ("gaussian", ["income", "height", "shoe"])]
    likelihood += [("bernoulli", ["member", "asked", "owner"]), ("categorical", ["town", "grade", "floor"])]
    weighted = fit_columns(frame, likelihood, sample_weight=weight)
    repeated = fit_columns(frame.iloc[np.repeat(np.arange(N), weight)], likelihood)
    for name in ("location", "scale", "input_mean", "input_scale"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-12)
    for some, others in zip(weighted.statistics, repeated.statistics):
        np.testing.assert_allclose(some, others, rtol=1e-12, atol=1e-14)


def test_moments_are_those_of_the_layout_over_observed_cells():
    frame = mixed_frame()
    columns = fit_columns(frame, "auto")
    x, observed = encode(as_numbers(frame, columns), columns)
    seen = np.where(observed, x, np.nan)
    np.testing.assert_allclose(columns.statistics.mean, np.nanmean(seen, axis=0), atol=1e-14)
    np.testing.assert_allclose(columns.statistics.variance, np.nanvar(seen, axis=0), rtol=1e-12)
    share = np.where(observed, as_numbers(frame, columns)[:, columns.source] != 0, 0).sum(0) / observed.sum(0)
    one_hot = np.concatenate([np.full(8, False), np.full(9, True)])
    expected = np.where(one_hot, columns.statistics.mean, share)
    np.testing.assert_allclose(columns.statistics.share, expected)


def test_large_tables_go_in_pieces(monkeypatch):
    X = data_for("gaussian")
    whole = fit_columns(X)
    x, _ = encode(X, whole)
    monkeypatch.setattr(encoding, "_CELLS_AT_ONCE", 3 * 7)  # seven rows at once
    np.testing.assert_array_equal(encode(X, whole)[0], x)
    monkeypatch.setattr(learning, "_CELLS_AT_ONCE", N)  # one column at once
    np.testing.assert_allclose(fit_columns(X).scale, whole.scale, rtol=1e-14)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_features_of_numbers_and_counts_are_standardised_and_zero_where_missing(likelihood):
    X = data_for(likelihood)
    columns = fit_columns(X, likelihood)
    x, observed = encode(as_numbers(X, columns), columns)
    before = x.copy()
    features = encoder_inputs(x, observed, columns)
    np.testing.assert_array_equal(x, before)
    assert features.shape == x.shape and not features[~observed].any()
    seen = np.where(observed, features, np.nan)
    if likelihood in ("bernoulli", "categorical"):
        assert features is x
    else:
        np.testing.assert_allclose(np.nanmean(seen, axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(np.nanstd(seen, axis=0), 1, rtol=1e-12)


def test_counts_that_are_constant_have_features():
    X = np.full((5, 2), 3.0)
    columns = fit_columns(X, "poisson")
    assert not encoder_inputs(*encode(X, columns), columns).any()


def test_a_fit_travels_by_pickle():
    frame = mixed_frame()
    columns = fit_columns(frame, "auto")
    copy = pickle.loads(pickle.dumps(columns))
    numbers = as_numbers(frame, copy)
    np.testing.assert_array_equal(encode(numbers, copy)[0], encode(numbers, columns)[0])
    pd.testing.assert_frame_equal(restore(numbers[:1] * 0, copy), restore(numbers[:1] * 0, columns))
    assert copy.architecture() == columns.architecture()


def frames_of_pandas_objects():
    """Frames of which a column holds objects of pandas, or is labelled by them."""
    place, days = np.arange(N) % 3, pd.date_range("2020-03-28", periods=3)
    cells = {
        "dates": days[place],
        "zoned": days.tz_localize("Europe/Berlin")[place],
        "spans": (days - days[0])[place],
        "declared": pd.Categorical(days[place], categories=list(days[::-1]), ordered=True),
        "months": pd.Categorical(pd.period_range("2020", periods=3, freq="M")[place]),
        "intervals": pd.cut(pd.Series(place * 1.0), 3),
        "weeks": pd.cut(pd.Series(days[place]), 2),
        "strings": pd.array(np.array(["u", "v", "w"])[place], dtype="string"),
        "objects": pd.Series(list(days[place]), dtype=object),
        "bytes": pd.Categorical([b"u", b"v"] * (N // 2)),
    }
    for name, column in cells.items():
        yield pytest.param(pd.DataFrame({"c": column, "x": np.arange(N, dtype=np.float32)}), id=name)
    labels = {"tuples": [("a", 1), ("b", 2)], "numbers": [7, 3], "times": list(days[:2]), "both": ["a", 1]}
    for name, label in labels.items():
        frame = pd.DataFrame({0: np.array(["u", "v", "w"])[place], 1: np.arange(N) * 1.0})
        frame.columns = pd.MultiIndex.from_tuples(label, names=["p", None]) if name == "tuples" else label
        yield pytest.param(frame, id=name)


@pytest.mark.parametrize("frame", list(frames_of_pandas_objects()))
def test_objects_of_pandas_come_back_out_of_plain_facts(frame):
    kinds = [("categorical", [0]), ("gaussian", [1])]
    columns = fit_columns(frame, kinds)
    written = pickle.dumps(columns)
    assert b"pandas" not in written
    columns = pickle.loads(written)
    x, _ = encode(as_numbers(frame, columns), columns)
    for like, expected in ((frame, frame), (None, frame.reset_index(drop=True))):
        back = restore(decode(x, columns), columns, like=like)
        pd.testing.assert_frame_equal(back, expected, check_column_type=False)
        assert back.columns.names == frame.columns.names
    gaps = frame.copy()
    gaps.isetitem(0, frame.iloc[:, 0].where(np.arange(N) % 5 > 0))
    filled = fill_missing(gaps, as_numbers(gaps, columns), as_numbers(frame, columns), columns)
    pd.testing.assert_frame_equal(filled, frame)


def test_one_moment_in_two_time_zones_is_one_level():
    days = pd.date_range("2020-03-28", periods=4, tz="Europe/Berlin")
    columns = fit_columns(pd.DataFrame({"when": days}), "categorical")
    elsewhere = pd.DataFrame({"when": days.tz_convert("Asia/Tokyo")[::-1]})
    assert as_numbers(elsewhere, columns)[:, 0].tolist() == [3, 2, 1, 0]


def test_pandas_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # so that importing it fails
    rows = [[1.0, "a"], [2.0, None], [None, "b"]]
    columns = fit_columns(rows, "auto")
    numbers = as_numbers(rows, columns)
    assert fill_missing(rows, numbers, decode(encode(numbers, columns)[0], columns), columns)[1].tolist() == [2.0, "a"]


# --- errors -----------------------------------------------------------------------------------------------------------

GOOD = pd.DataFrame({"k": [0.0, 1, 1, 0], "c": ["a", "b", "a", "b"], "x": [0.5, 1.5, 2.5, 3.5]})
KINDS = [("categorical", "c"), ("gaussian", "x")]


def changed(name, value, row=2):
    frame = GOOD.astype({name: object})
    frame.loc[row, name] = value
    return frame


@pytest.mark.parametrize(
    "kind, name, value, words",
    [
        ("bernoulli", "k", 3.7, r"Mine with likelihood 'bernoulli' .* \[0, 1\], but X\[2, 'k'\] = 3.7; binarise"),
        ("bernoulli", "k", -0.1, r"X\[2, 'k'\] = -0.1"),
        ("poisson", "k", -1, r"'poisson' expects counts .*X\[2, 'k'\] = -1"),
        ("negative_binomial", "k", 0.5, r"'negative_binomial' expects counts .*X\[2, 'k'\] = 0.5"),
        ("multinomial", "k", 1.5, r"'multinomial' expects counts .*X\[2, 'k'\] = 1.5"),
        ("poisson", "k", np.inf, r"finite values.*X\[2, 'k'\] = inf"),
        ("gaussian", "x", -np.inf, r"finite values.*X\[2, 'x'\] = -inf"),
        ("gaussian", "x", "7", r"gaussian column .*X\[2, 'x'\] = '7' is a string.*'categorical'.*'auto'"),
    ],
)
def test_bad_values_are_named_at_fit_and_at_predict(kind, name, value, words):
    rest = "k" if name == "x" else "x"
    likelihood = [(kind, name), ("categorical", "c"), ("gaussian", rest)]
    with pytest.raises(ValueError, match=words):
        fit_columns(changed(name, value), likelihood, who="Mine")
    with pytest.raises(ValueError, match=words):
        as_numbers(changed(name, value), fit_columns(GOOD, likelihood, who="Mine"))


def test_probabilities_are_accepted_as_binary():
    assert as_numbers([[0.7]], fit_columns([[0.2], [1.0]], "bernoulli")) == 0.7


def test_unknown_levels_are_named_beside_the_known():
    columns = fit_columns(GOOD, "auto", who="Mine")
    with pytest.raises(ValueError, match=r"X\[2, 'c'\] = 'z', but the levels .* Mine was fitted on are 'a', 'b'; "):
        as_numbers(changed("c", "z"), columns)
    with pytest.raises(ValueError, match=r"X\[1, 0\] = 2.5, but .* are 0.0, 1.0, .*, 9.0 and 20 more"):
        as_numbers(np.array([[1.0], [2.5]]), fit_columns(np.arange(30.0)[:, None], "categorical"))


def test_columns_without_any_value_are_named():
    frame = GOOD.assign(x=np.nan)
    with pytest.raises(ValueError, match=r"without any observed value.*column\(s\) 'x'"):
        fit_columns(frame, "auto")
    frame = GOOD.assign(c=pd.Categorical([None] * 4))
    with pytest.raises(ValueError, match=r"without any observed value.*column\(s\) 'c'"):
        fit_columns(frame, "auto")
    with pytest.raises(ValueError, match=r"column\(s\) 1"):
        fit_columns([[1.0, 2.0], [2.0, np.nan]], sample_weight=[0, 1])


@pytest.mark.parametrize(
    "likelihood, words",
    [
        ("gauss", r"Mine knows no likelihood 'gauss'; choose among 'gaussian', .*'negative_binomial', 'auto'"),
        (None, "knows no likelihood None"),
        ([("auto", ["k", "c", "x"])], "knows no likelihood 'auto'"),
        (["gaussian"], r"pairs \(likelihood, columns\), but found 'gaussian'"),
        (KINDS, r"every column once, but it names column\(s\) 'k' not at all"),
        ([*KINDS, ("poisson", ["k", "x"])], r"names column\(s\) 'x' more than once"),
        ([*KINDS, ("poisson", "y")], "no column is named 'y'"),
        ([*KINDS, ("poisson", 3)], r"columns, but got \[3\]"),
    ],
)
def test_unknown_likelihoods_and_columns_are_named(likelihood, words):
    with pytest.raises(ValueError, match=words):
        fit_columns(GOOD, likelihood, who="Mine")


@pytest.mark.parametrize("noise", ["diagonal", 0, -1.0, np.nan, np.inf, True, None])
def test_unknown_noise_is_named(noise):
    with pytest.raises(
        ValueError, match="'diag', 'isotropic' or a positive number, but it is " + re.escape(repr(noise))
    ):
        fit_columns(data_for("gaussian"), noise=noise)


def test_columns_of_dates_and_of_mixed_types_are_refused():
    dates = pd.DataFrame({"when": pd.date_range("2020-01-01", periods=3)})
    with pytest.raises(ValueError, match="'auto' knows none for column 'when' of dtype datetime64"):
        fit_columns(dates, "auto")
    assert fit_columns(dates, "categorical").width == 3
    with pytest.raises(ValueError, match="column 0 cannot be sorted: it holds int and str"):
        fit_columns([[1], ["a"]], "categorical")
    with pytest.raises(ValueError, match="categorical column 0 holds inf"):
        fit_columns([[1.0], [np.inf]], "categorical")
    with pytest.raises(ValueError, match="squares overflow"):
        fit_columns([[1e200], [1.0]])
    with pytest.raises(ValueError, match=r"squares vanish in float64, such as 1e-200, in column\(s\) 1; scale"):
        fit_columns([[0.0, 1e-200], [1.0, 2e-200]])
    np.testing.assert_allclose(fit_columns([[1e-140, 1e140], [3e-140, 3e140]]).scale, [1e-140, 1e140])


@pytest.mark.parametrize("likelihood", ["gaussian", "auto"])
def test_what_is_no_number_is_a_type_error(likelihood):
    X = np.ones((3, 2), dtype=object)
    X[1, 0] = {"a": 1}
    with pytest.raises(TypeError, match=r"X\[1, 0\]: .*argument must be .* string.* number"):
        fit_columns(X, likelihood)


@pytest.mark.parametrize(
    "X, error, words",
    [
        (np.ones(3), ValueError, "Reshape your data"),
        (np.ones((2, 2, 2)), ValueError, "dim 3"),
        (sp.csr_array(np.eye(2)), TypeError, "[Ss]parse"),
        (np.ones((2, 2)) + 1j, ValueError, "Complex data not supported"),
        (np.empty((0, 2)), ValueError, "0 sample"),
        (np.empty((2, 0)), ValueError, r"0 feature\(s\)"),
        (np.ones((2, 3)), ValueError, "X has 3 features, but Mine is expecting 2 features"),
    ],
)
def test_what_is_no_table_is_refused_in_scikit_learns_words(X, error, words):
    columns = fit_columns(np.eye(2), who="Mine")
    with pytest.raises(error, match=words):
        as_numbers(X, columns)
    if "expecting" not in words:
        with pytest.raises(error, match=words):
            read_columns(X, who="Mine")


# -------------------------------------------------------------------------------------------------- as users have them
@pytest.mark.parametrize("cells", [["x", "y"], [True, False], [3, 5], pd.Categorical(["u", "v"])])
def test_a_column_of_which_nothing_is_seen_is_filled_with_what_was_fitted(cells):
    """All of it missing, its floats are no word on what it holds: the usual way to ask for a prediction."""
    frame = pd.DataFrame({"a": np.arange(40.0), "c": list(cells) * 20}).astype({"a": "float32"})
    kinds = [("gaussian", ["a"]), ("categorical", ["c"])]
    columns = fit_columns(frame, "auto" if isinstance(cells[0], bool) else kinds)
    asked = pd.DataFrame({"a": np.float32([1.0, np.nan]), "c": [np.nan, np.nan]})
    values = np.array([[7.0, 1.0], [7.0, 0.0]])
    filled = fill_missing(asked, as_numbers(asked, columns), values, columns)
    last, first = (cells[1], cells[0]) if not isinstance(cells[0], bool) else (True, False)
    assert filled["c"].tolist() == [last, first]
    assert filled["a"].tolist() == [1.0, 7.0] and filled["a"].dtype == np.float32


def test_truth_values_among_objects_stay_truth_values():
    X = np.array([[1.0, True], [2.0, None], [3.0, False], [4.0, True]], dtype=object)
    columns = fit_columns(X, "auto")
    numbers = as_numbers(X, columns)
    assert fill_missing(X, numbers, np.full(numbers.shape, 0.9), columns)[1, 1] is True
    assert restore(np.array([[0.5, 0.2]]), columns).tolist() == [[0.5, False]]


def test_columns_by_numbers_of_any_kind_but_no_slices_of_names():
    X = np.arange(12.0).reshape(4, 3)
    columns = read_columns(X, [("gaussian", np.array([0, 2], dtype=np.uint8)), ("poisson", [1])])
    assert [block.likelihood for block in columns.blocks] == ["gaussian", "poisson"]
    frame = pd.DataFrame(X, columns=list("abc"))
    with pytest.raises(ValueError, match="slice of numbers"):
        read_columns(frame, [("gaussian", slice("a", "c"))])
