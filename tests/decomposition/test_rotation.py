"""Rotations keep the covariance, end where nothing betters their criterion, and recover a planted simple structure."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment, minimize
from scipy.stats import ortho_group
from sklearn.decomposition import FactorAnalysis

from skvae import FactorAnalysisEM
from skvae.models.decomposition import rotation
from skvae.models.decomposition.rotation import OBLIQUE, ORTHOGONAL, quartimin_criterion, rotate

ALL = ORTHOGONAL + OBLIQUE


def varimax_simplicity(L):
    """Kaiser's own words: the sum over factors of the variance of the squared loadings (times D)."""
    return len(L) * (L**2).var(0).sum()


def quartimax_simplicity(L):
    return (L**4).sum()


def equamax_simplicity(L):
    """Crawford and Ferguson's complexity of rows and columns, equally weighed for K / D = 2 kappa, and negated."""
    squares, kappa = L**2, L.shape[1] / len(L) / 2
    rows = (squares.sum(1) ** 2 - (squares**2).sum(1)).sum()
    columns = (squares.sum(0) ** 2 - (squares**2).sum(0)).sum()
    return -(1 - kappa) * rows - kappa * columns


SIMPLICITY = {"varimax": varimax_simplicity, "quartimax": quartimax_simplicity, "equamax": equamax_simplicity}
PEERS = ["varimax", "quartimax"]  # rotations that scikit-learn has; it does not normalise


def draw_loadings(seed, D=None, K=None):
    """Loadings without structure, of features with communalities of different sizes."""
    rng = np.random.default_rng(seed)
    D, K = D or rng.integers(6, 25), K or rng.integers(2, 6)
    return rng.standard_normal((D, K)) * rng.uniform(0.1, 2, (D, 1))


def draw_structure(seed, K=4, per_factor=5, cross=0.0):
    """Every feature loads on one factor, but for `cross`."""
    rng = np.random.default_rng(seed)
    pattern = np.kron(np.eye(K), np.ones((per_factor, 1)))
    simple = pattern * rng.uniform(0.4, 1, (K * per_factor, 1)) * rng.choice([-1, 1], K)
    return simple + cross * rng.standard_normal(simple.shape)


def draw_correlation(seed, K=4, strength=0.5):
    rng = np.random.default_rng(seed)
    B = rng.uniform(0.4, 1, (K, 1)) * np.sqrt(strength)
    Phi = B @ B.T
    np.fill_diagonal(Phi, 1)
    return Phi


def matched(L, planted):
    """Order and signs of the columns of L that bring it nearest to the planted ones."""
    cosines = L.T @ planted / np.linalg.norm(L, axis=0)[:, None] / np.linalg.norm(planted, axis=0)
    order = linear_sum_assignment(-np.abs(cosines.T))[1]
    return order, np.sign(cosines[order, range(len(order))])


def assert_same_up_to_order_and_sign(one, other, atol):
    order, sign = matched(one.loadings, other.loadings)
    assert_allclose(one.loadings[:, order] * sign, other.loadings, atol=atol)
    assert_allclose(one.correlation[np.ix_(order, order)] * np.outer(sign, sign), other.correlation, atol=atol)


# --- what every rotation must keep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("seed", range(8))
def test_the_common_covariance_stays(method, seed, normalize):
    A = draw_loadings(seed)
    L, _, Phi = rotate(A, method, normalize=normalize)
    assert L.dtype == np.float64
    assert_allclose(L @ Phi @ L.T, A @ A.T, atol=1e-12 * np.abs(A @ A.T).max())


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("seed", range(8))
def test_the_matrix_turns_loadings_and_scores(method, seed):
    A = draw_loadings(seed)
    L, T, Phi = rotate(A, method)
    K = A.shape[1]
    assert_allclose(L @ T.T, A, atol=1e-12)
    assert_allclose(T.T @ T, Phi, atol=1e-12)
    assert np.array_equal(np.diag(Phi), np.ones(K))
    assert np.linalg.eigvalsh(Phi).min() > 1e-3
    if method in ORTHOGONAL:
        assert_allclose(T @ T.T, np.eye(K), atol=1e-14)
        assert np.array_equal(Phi, np.eye(K))
    z = np.random.default_rng(seed).standard_normal((7, K))
    assert_allclose((z @ T) @ L.T, z @ A.T, atol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_the_scale_of_the_loadings_changes_nothing_else(method):
    A = draw_loadings(3)
    one = rotate(A, method)
    for scale in (1e-100, 1e-8, 1e8, 1e100):
        other = rotate(scale * A, method)
        assert_allclose(other.matrix, one.matrix, atol=1e-6)
        assert_allclose(other.loadings / scale, one.loadings, atol=1e-6)


@pytest.mark.parametrize("method", ALL)
def test_the_input_is_left_alone_and_may_be_float32(method):
    A = draw_loadings(4).astype(np.float32)
    kept = A.copy()
    L = rotate(A, method).loadings
    assert np.array_equal(A, kept)
    assert L.dtype == np.float64
    assert_allclose(L, rotate(A.astype(np.float64), method).loadings, atol=1e-12)


# --- the criterion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("seed", range(38, 46))  # an ascent of another path ends lower in one of these
def test_orthogonal_rotations_are_at_least_as_simple_as_scikit_learns(method, seed):
    A = draw_loadings(seed, D=24, K=6)
    theirs = FactorAnalysis(rotation=method)._rotate(A.T).T  # the public way rotates what it has fitted
    value, simple = SIMPLICITY[method], rotate(A, method, normalize=False).loadings
    assert value(simple) >= value(theirs) * (1 - 1e-14)
    assert value(simple) >= value(A) * (1 - 1e-14)


def test_varimax_does_not_end_below_its_start_where_scikit_learns_iteration_does():
    A = np.array([[0.0, 0, 0], [-4, 4, 0], [-1, -1, 2]])
    assert varimax_simplicity(FactorAnalysis(rotation="varimax")._rotate(A.T).T) < 0.9 * varimax_simplicity(A)
    assert varimax_simplicity(rotate(A, "varimax", normalize=False).loadings) >= varimax_simplicity(A)


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("seed", range(5))
def test_orthogonal_rotations_equal_scikit_learns_where_the_optimum_is_clear(method, seed):
    A = draw_structure(seed, cross=0.05) @ ortho_group.rvs(4, random_state=seed)
    theirs = FactorAnalysis(rotation=method)._rotate(A.T).T
    found = rotate(A, method, normalize=False).loadings
    assert_allclose(found, theirs, atol=1e-3)  # they stop at a relative gain of 1e-6


@pytest.mark.parametrize("method", ORTHOGONAL)
@pytest.mark.parametrize("seed", range(8))
def test_no_small_turn_betters_an_orthogonal_rotation(method, seed):
    rng = np.random.default_rng(seed)
    A = draw_loadings(seed)
    L = rotate(A, method, normalize=False).loadings
    best = SIMPLICITY[method](L)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            turn = np.linalg.qr(np.eye(L.shape[1]) + size * rng.standard_normal((L.shape[1],) * 2))[0]
            assert SIMPLICITY[method](L @ turn) < best + 1e-13 * abs(best)


@pytest.mark.parametrize("seed", range(8))
def test_no_small_change_betters_oblimin(seed):
    rng = np.random.default_rng(seed)
    A = draw_loadings(seed, D=20, K=4)
    L, T, _ = rotate(A, "oblimin", normalize=False)
    best = quartimin_criterion(L)
    assert best <= quartimin_criterion(rotate(A, "quartimax", normalize=False).loadings)
    assert best <= quartimin_criterion(rotate(A, "promax").loadings)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            other = T + size * rng.standard_normal(T.shape)
            other /= np.linalg.norm(other, axis=0)
            assert quartimin_criterion(np.linalg.solve(other, A.T).T) > best * (1 - 1e-13)


def test_the_quartimin_criterion_is_the_sum_over_pairs_of_factors():
    squares = draw_loadings(0, D=7, K=3) ** 2
    pairs = sum(squares[:, j] @ squares[:, k] for j in range(3) for k in range(3) if j != k) / 4
    assert quartimin_criterion(np.sqrt(squares)) == pytest.approx(pairs, rel=1e-12)


def test_the_gradient_of_quartimin_is_that_of_its_values():
    A = draw_loadings(1, D=9, K=3) / 3
    T = np.random.default_rng(0).standard_normal((3, 3))
    T /= np.linalg.norm(T, axis=0)
    step, numerical = 1e-6, np.zeros((3, 3))
    for at in np.ndindex(3, 3):
        values = []
        for sign in (1, -1):
            other = T.copy()
            other[at] += sign * step
            values.append(rotation.quartimin_and_gradient(A, other / np.linalg.norm(other, axis=0))[0])
        numerical[at] = (values[0] - values[1]) / (2 * step)
    assert_allclose(rotation.quartimin_and_gradient(A, T)[1], numerical, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ORTHOGONAL)
def test_a_start_at_the_worst_rotation_is_left(method):
    simple = np.kron(np.eye(2), np.ones((4, 1)))
    A = simple @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2)  # midway: the gradient vanishes where the criterion is lowest
    L = rotate(A, method).loadings
    assert (np.abs(L).min(1) < 1e-6).all()


@pytest.mark.parametrize("method", ORTHOGONAL)
@pytest.mark.parametrize("seed", range(5))
def test_two_factors_turn_by_the_best_of_all_angles(method, seed):
    A = draw_loadings(seed, K=2)
    angles = np.linspace(0, np.pi, 2001)
    best = max(SIMPLICITY[method](A @ [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles)
    turned = A @ rotation._turn_pairs(A, np.eye(2), rotation._GAMMA[method](2))  # alone, without the ascent after it
    assert SIMPLICITY[method](turned) >= best
    assert SIMPLICITY[method](rotate(A, method, normalize=False).loadings) >= best


def test_loadings_without_a_preferred_angle_are_not_turned_by_rounding():
    angles = np.arange(3) * np.pi / 3  # three directions evenly spread: quartimax is the same at every angle
    A = np.c_[np.cos(angles), np.sin(angles)]
    assert_allclose(rotate(A, "quartimax").loadings, A, atol=1e-6)


def test_promax_is_the_least_squares_fit_of_its_target():
    A = draw_loadings(5, D=12, K=3)
    varimax = rotate(A, "varimax").loadings
    L, _, Phi = rotate(A, "promax", power=3)
    target = np.sign(varimax) * np.abs(varimax) ** 3
    for k in range(3):  # each column of the target is nearest to a multiple of the rotated one, among all of A's span
        fit = A @ np.linalg.lstsq(A, target[:, k], rcond=None)[0]
        assert abs(fit @ L[:, k]) == pytest.approx(np.linalg.norm(fit) * np.linalg.norm(L[:, k]), rel=1e-9)
    assert np.abs(Phi - np.eye(3)).max() > np.abs(rotate(A, "promax", power=1.5).correlation - np.eye(3)).max()


def test_normalisation_gives_all_features_one_weight():
    A = draw_structure(1, cross=0.2)
    weights = np.random.default_rng(0).uniform(0.01, 100, (len(A), 1))
    for method in (*ORTHOGONAL, "oblimin"):
        plain, weighted = (rotate(B, method).matrix for B in (A, weights * A))
        assert_allclose(weighted, plain, atol=1e-6)
        assert np.abs(rotate(weights * A, method, normalize=False).matrix - plain).max() > 1e-3


@pytest.mark.parametrize("method", ORTHOGONAL)
def test_a_normalised_rotation_is_the_plain_one_of_rows_of_length_1(method):
    A = draw_structure(2, cross=0.2)
    rows = A / np.linalg.norm(A, axis=1, keepdims=True)
    assert_allclose(rotate(A, method).matrix, rotate(rows, method, normalize=False).matrix, atol=1e-6)


def test_equamax_of_two_factors_is_varimax():
    A = draw_loadings(6, K=2)
    assert_allclose(rotate(A, "equamax").loadings, rotate(A, "varimax").loadings, atol=1e-6)


@pytest.fixture(scope="module")
def holzinger_swineford(test_data):
    """Unrotated loadings of three factors of the nine tests, standardised."""
    path = test_data / "small" / "HolzingerSwineford1939.csv"
    if not path.is_file():
        pytest.skip("needs small/HolzingerSwineford1939.csv in the folder that SKVAE_TEST_DATA names")
    with path.open() as file:
        X = np.array([[float(row[f"x{j}"]) for j in range(1, 10)] for row in csv.DictReader(file)])
    X = (X - X.mean(0)) / X.std(0)
    return FactorAnalysis(3, tol=1e-8, max_iter=5000, svd_method="lapack").fit(X).components_.T


# --- R ----------------------------------------------------------------------------------------------------------------


def varimax_of_r(A, normalize=True):
    """The steps of R's `stats::varimax`, to convergence."""
    length = np.sqrt((A**2).sum(1))[:, None] if normalize else 1.0
    X, T = A / length, np.eye(A.shape[1])
    for _ in range(2000):
        Z = X @ T
        U, _, Vt = np.linalg.svd(X.T @ (Z**3 - Z * (Z**2).mean(0)))
        T = U @ Vt
    return (X @ T) * length, T


def promax_of_r(A, m=4):
    """The steps of R's `stats::promax`: the pattern, and the correlation of the factors as `factanal` gives it."""
    L, T = varimax_of_r(A)
    U = np.linalg.lstsq(L, L * np.abs(L) ** (m - 1), rcond=None)[0]
    U = U * np.sqrt(np.linalg.inv(U.T @ U).diagonal())
    turn = np.linalg.inv(T @ U)
    return L @ U, turn @ turn.T


@pytest.mark.parametrize("seed", range(4))
def test_varimax_and_promax_take_the_steps_of_r(seed):
    A = draw_structure(seed, K=3, cross=0.15) * np.random.default_rng(seed).uniform(0.2, 1, (15, 1))
    assert_allclose(rotate(A, "varimax").loadings, varimax_of_r(A)[0], atol=1e-6)
    assert_allclose(rotate(A, "varimax", normalize=False).loadings, varimax_of_r(A, False)[0], atol=1e-6)
    L, Phi = promax_of_r(A)
    found = rotate(A, "promax")
    assert_allclose(found.loadings, L, atol=1e-6)
    assert_allclose(found.correlation, Phi, atol=1e-6)
    assert np.abs(rotate(A, "promax", normalize=False).loadings - L).max() > 1e-4


# Covariances of six ability tests of 112 persons (R's `ability.cov`, from Bartholomew 1987), and what R's
# `factanal(factors = 2, covmat = ability.cov)` prints of them. Its varimax stops at a relative gain of 1e-5.
ABILITY = [
    [24.641, 5.991, 33.520, 6.023, 20.755, 29.701],
    [5.991, 6.700, 18.137, 1.782, 4.936, 7.204],
    [33.520, 18.137, 149.831, 19.424, 31.430, 50.753],
    [6.023, 1.782, 19.424, 12.711, 4.757, 9.075],
    [20.755, 4.936, 31.430, 4.757, 52.604, 66.762],
    [29.701, 7.204, 50.753, 9.075, 66.762, 135.292],
]
FACTANAL = {
    "varimax": [[0.499, 0.156, 0.206, 0.109, 0.956, 0.785], [0.543, 0.622, 0.860, 0.468, 0.182, 0.225]],
    "promax": [[0.364, None, None, None, 1.023, 0.811], [0.470, 0.671, 0.932, 0.508, None, None]],
}


@pytest.mark.parametrize("rotation", ["varimax", "promax"])
def test_the_ability_tests_load_as_factanal_prints(rotation):
    S = np.array(ABILITY)
    spread = np.sqrt(S.diagonal())
    model = FactorAnalysisEM(2, rotation=rotation, tol=1e-10, max_iter=10_000)
    model.fit_covariance(S / spread / spread[:, None], 112)
    assert_allclose(model.noise_variance_, [0.455, 0.589, 0.218, 0.769, 0.052, 0.334], atol=6e-4)
    printed = np.array(FACTANAL[rotation], dtype=float)  # R leaves out loadings below .1
    shown = ~np.isnan(printed)
    assert_allclose(model.components_[shown], printed[shown], atol=3.5e-3)
    assert np.abs(model.components_[~shown]).max(initial=0) < 0.1
    if rotation == "promax":
        assert model.factor_correlation_[0, 1] == pytest.approx(0.557, abs=6e-4)


def test_holzinger_swineford_loads_as_factanal_prints(holzinger_swineford):
    """`factanal(x, 3)` of the nine tests, x4: (.827, .165); without Kaiser's normalisation (.838, .113)."""
    L = rotate(holzinger_swineford, "varimax").loadings
    verbal, visual = (int(np.abs(L[rows]).sum(0).argmax()) for rows in (slice(3, 6), slice(0, 3)))
    L = np.abs(L)
    assert_allclose(L[3, [verbal, visual]], [0.827, 0.165], atol=6e-4)
    assert_allclose(L[3:6, verbal], [0.827, 0.861, 0.801], atol=6e-4)
    plain = np.abs(rotate(holzinger_swineford, "varimax", normalize=False).loadings)
    assert_allclose(plain[3, [verbal, visual]], [0.838, 0.113], atol=6e-4)


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("seed", range(4))
def test_a_planted_structure_is_recovered_from_any_rotation_of_it(method, seed):
    planted = draw_structure(seed)
    A = planted @ ortho_group.rvs(4, random_state=seed)
    L, _, Phi = rotate(A, method)
    order, sign = matched(L, planted)
    assert_allclose(L[:, order] * sign, planted, atol=1e-6)
    assert_allclose(Phi, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_oblimin_recovers_correlated_factors_exactly(seed):
    planted, Phi = draw_structure(seed), draw_correlation(seed)
    A = planted @ np.linalg.cholesky(Phi) @ ortho_group.rvs(4, random_state=seed)
    L, _, found = rotate(A, "oblimin")
    order, sign = matched(L, planted)
    assert_allclose(L[:, order] * sign, planted, atol=1e-5)
    assert_allclose(found[np.ix_(order, order)] * np.outer(sign, sign), Phi, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_promax_comes_nearer_to_correlated_factors_than_varimax(seed):
    planted, Phi = draw_structure(seed), draw_correlation(seed)
    A = planted @ np.linalg.cholesky(Phi)
    off = {}
    for method in ("varimax", "promax"):
        L = rotate(A, method).loadings
        order, sign = matched(L, planted)
        off[method] = np.abs(L[:, order] * sign - planted).max()
    assert off["promax"] < off["varimax"] / 3
    assert off["promax"] < 0.1


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("seed", range(4))
def test_the_rotation_of_the_input_is_forgotten(method, seed):
    A = draw_structure(seed, cross=0.1) @ np.linalg.cholesky(draw_correlation(seed, strength=0.3))
    one, other = rotate(A, method), rotate(A @ ortho_group.rvs(4, random_state=seed), method)
    assert_same_up_to_order_and_sign(one, other, atol=1e-6)


def test_oblimin_finds_one_optimum_of_a_blurred_structure():
    A = draw_structure(45, cross=0.3) @ np.linalg.cholesky(draw_correlation(45))
    turned = [rotate(A @ ortho_group.rvs(4, random_state=450 + j), "oblimin") for j in range(3)]
    for other in turned[1:]:  # from the input itself, not from its quartimax rotation, another is reached
        assert_same_up_to_order_and_sign(turned[0], other, atol=1e-5)


# Centroid loadings of eight physical measures of 305 girls (Harman, Modern factor analysis), in Bernaards & Jennrich
# (2005), with the first column of quartimin and the factors' correlation as printed there.
HARMAN_8 = [
    [0.830, -0.396],
    [0.818, -0.469],
    [0.777, -0.470],
    [0.798, -0.401],
    [0.786, 0.500],
    [0.672, 0.458],
    [0.594, 0.444],
    [0.647, 0.333],
]


def test_oblimin_gives_the_published_loadings_of_harmans_physical_measures():
    L, _, Phi = rotate(HARMAN_8, "oblimin", normalize=False)
    assert_allclose(L[:, 0], [0.892, 0.954, 0.929, 0.877, 0.014, -0.017, -0.052, 0.086], atol=6e-4)
    assert_allclose(L[4:, 1], [0.925, 0.821, 0.765, 0.683], atol=6e-4)
    assert Phi[0, 1] == pytest.approx(0.473, abs=6e-4)


def test_oblimin_of_holzinger_swineford_is_the_best_that_any_search_finds(holzinger_swineford):
    A = holzinger_swineford
    rng = np.random.default_rng(0)

    def criterion(flat):
        T = flat.reshape(3, 3)
        L = A @ np.linalg.inv(T / np.linalg.norm(T, axis=0)).T
        return quartimin_criterion(L)

    searches = [minimize(criterion, rng.standard_normal(9), method="BFGS") for _ in range(10)]
    best = min(searches, key=lambda search: search.fun).fun
    found = rotate(A, "oblimin", normalize=False)
    assert quartimin_criterion(found.loadings) == pytest.approx(best, rel=1e-6)
    # Visual (x1-x3), textual (x4-x6) and speed (x7-x9) tests load on three factors, all positively correlated.
    assert [*np.abs(found.loadings).argmax(1)] == [k for k in np.abs(found.loadings).argmax(1)[::3] for _ in range(3)]
    sign = np.sign(found.loadings.sum(0))
    off_diagonal = (found.correlation * np.outer(sign, sign))[np.triu_indices(3, 1)]
    assert (off_diagonal > 0.15).all() and (off_diagonal < 0.6).all()


# --- degenerate input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("K", [0, 1])
def test_fewer_than_two_factors_come_back_unchanged(method, K):
    A = np.random.default_rng(0).standard_normal((6, K))
    L, T, Phi = rotate(A, method)
    assert np.array_equal(L, A)
    assert np.array_equal(T, np.eye(K)) and np.array_equal(Phi, np.eye(K))


@pytest.mark.parametrize("method", ALL)
def test_directions_without_loadings_stay_uncorrelated(method):
    base = draw_structure(0, K=2) @ np.linalg.cholesky(draw_correlation(0, K=2))
    for A in (np.c_[base, np.zeros(len(base))], np.c_[base, base[:, :1]], base[[0, 7]] @ np.eye(2, 4)):
        L, T, Phi = rotate(A, method)
        assert_allclose(L @ Phi @ L.T, A @ A.T, atol=1e-12)
        assert np.linalg.cond(T) < 100
        if method in OBLIQUE:
            assert np.isclose(np.linalg.norm(L, axis=0), 0).sum() == A.shape[1] - 2


@pytest.mark.parametrize("method", ALL)
def test_loadings_that_are_all_zero_come_back_unchanged(method):
    L, T, Phi = rotate(np.zeros((5, 3)), method)
    assert not L.any()
    assert np.array_equal(T, np.eye(3)) and np.array_equal(Phi, np.eye(3))


@pytest.mark.parametrize("method", ALL)
def test_a_feature_without_loadings_is_no_obstacle_to_normalisation(method):
    A = np.r_[draw_structure(0), np.zeros((1, 4))]
    L = rotate(A, method, normalize=True).loadings
    assert_allclose(L[-1], 0, atol=1e-12)
    assert_allclose(np.abs(L), np.abs(A), atol=1e-6)


def test_errors_name_the_fault():
    A = draw_loadings(0)
    with pytest.raises(ValueError, match="one of varimax, quartimax, equamax, promax, oblimin, not 'geomin'"):
        rotate(A, "geomin")
    with pytest.raises(ValueError, match=r"matrix .*, not of shape \(3,\)"):
        rotate(A[0, :1].repeat(3), "varimax")
    with pytest.raises(ValueError, match="above 1, not 1"):
        rotate(A, "promax", power=1)
    A[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"loadings\[2, 1\] = nan"):
        rotate(A, "oblimin")
