"""What a row looks like given its natural parameters: one small object a likelihood.

Each gives `log_prob + log_base`, the normalised log-probability in nats; `log_base` is constant in the parameters and
left out of training. `x` is a `Batch` of sparse rows or the `Cells` of dense ones, `f` the decoder's output, one number
for each of their columns.
"""

import math
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special, stats
from torch.autograd.function import once_differentiable

from skvae._sparse import entry
from skvae._tensors import and_back, kept_gradient

_LEAST_RATE = 1e-6  # of a count, at which biases of columns of zeros start
_STEEP = 30.0  # log-rate from which a rate goes on as a straight line
_LOG_DISPERSION = 15.0  # largest size of a log-dispersion; a negative binomial is Poisson long before
_LARGE_DISPERSION = 50.0  # from which Stirling's series is exact to rounding
_MANY_DRAWS = 1000  # of one row, which are then no longer made one by one
_MANY = 1e6  # events, above which their number is drawn from a normal


class Likelihood:
    """What all likelihoods share.

    Each has these methods; shapes are those of dense rows, whose leading axes (members, draws) broadcast. `own` holds
    the likelihood's own parameters by name: Tensors of shape (D,) or, with a leading axis of members, (M, D).

    - `log_prob(x, f, own=None)`, (..., B): log p(x | f) over the observed cells less `log_base(x)`, nats.
    - `log_prob_and_back(x, f, own=None)`: the same in training, where `own` keeps its gradients, and a function, to be
      called once, from the gradient of the result to that of f, which adds to those of `own`.
    - `log_base(x)`, (..., B): what is constant in f and `own`.
    - `mean(f, own=None)`, (..., B, D): E[x | f], in the layout of x.
    - `sample(f, own, noise, row)`, (B, D): a draw for each row, keyed by the row's number in `row` (B,).
    - `init_bias(mean, share)`, (D,): the f at the maximum of the marginal likelihood, from the mean of each column over
      its observed cells and the share of them that is not zero.
    - `init_own(mean, variance)`: `own` at about the same maximum, from means and variances (D,).

    Attributes
    ----------
    empty_rows_inform : bool
        Whether a row of zeros says anything about f.
    """

    empty_rows_inform = True

    def init_own(self, mean, variance):
        """No parameters of its own."""
        return {}

    def log_prob_and_back(self, x, f, own=None):
        """log_prob, and a function from its gradient to that of f: see `skvae._tensors.and_back`."""
        f = f.detach().requires_grad_()
        log_prob = self.log_prob(x, f, own)

        def back(upstream):
            log_prob.backward(upstream)
            return f.grad

        return log_prob.detach(), back


class Gaussian(Likelihood):
    """x_d ~ N(f_d, psi_d), with psi = floor + exp(own["noise"]) where it is learned.

    Parameters
    ----------
    noise : {"diag", "isotropic"}, float or array-like of shape (D,), default="diag"
        A variance for each column, one for all, or fixed variances, which are not learned.
    floor : float, default=1e-3
        Least variance that can be learned: without one, a column explained in full has no maximum (Heywood case).

    Raises
    ------
    ValueError
        If `noise` is another word, or not positive.
    """

    def __init__(self, noise="diag", floor=1e-3):
        self.learned = isinstance(noise, str)
        if self.learned and noise not in ("diag", "isotropic"):
            raise ValueError(f"noise={noise!r} is not known; use 'diag', 'isotropic' or a positive number.")
        if not self.learned:
            noise = np.atleast_1d(np.asarray(noise, dtype=np.float64))
            if not (noise > 0).all():
                raise ValueError(f"noise must be positive, but its least is {noise.min()}; it is a variance.")
        self.noise, self.floor = noise, floor

    def variance(self, own, n_columns):
        """psi, of shape (D,), or (M, D) for members."""
        psi = self.floor + own["noise"].exp() if self.learned else torch.from_numpy(self.noise)
        return psi.expand(*psi.shape[:-1], n_columns)

    def raw(self, psi):
        """The own parameter that yields this psi, kept a hundredth of the floor above it: at it, gradients vanish."""
        return (psi - self.floor).clamp(min=0.01 * self.floor).log()

    def log_prob(self, x, f, own=None):
        psi = _beside(self.variance(own, f.shape[-1]), f)
        return -0.5 * (x.over_cells(((x.value - f) * psi.rsqrt()).square()) + x.over_cells(psi.log()))

    def log_prob_and_back(self, x, f, own=None):
        raw = own["noise"] if self.learned else None
        with torch.no_grad():
            psi = _beside(self.variance(own, f.shape[-1]), f)
            scale = psi.rsqrt()
            r = (x.value - f).mul_(scale)  # residuals by their standard deviations
            squares = r.square()
            log_prob = (x.over_cells(squares) + x.over_cells(psi.log())).mul_(-0.5)

        def back(upstream):
            each = x.only_seen(upstream.unsqueeze(-1))
            if raw is not None:
                share = (psi - self.floor) / psi  # of the learned part
                of_raw = (squares - 1).mul_(each).sum(-2).mul_(0.5 * share.squeeze(-2))
                kept_gradient(raw).add_(of_raw if raw.shape[-1] > 1 else of_raw.sum(-1, keepdim=True))
            return r.mul_(scale).mul_(each)

        return log_prob, back

    def expected_log_prob(self, x, f, spread, own=None):
        """E[log_prob] where the cells of f are normal with this mean and variance `spread`."""
        psi = _beside(self.variance(own, f.shape[-1]), f)
        return self.log_prob(x, f, own) - 0.5 * x.over_cells(spread / psi)

    def log_base(self, x):
        return -0.5 * math.log(2 * math.pi) * x.n_observed()

    def mean(self, f, own=None):
        return f

    def sample(self, f, own, noise, row):
        return f + _beside(self.variance(own, f.shape[-1]), f).sqrt() * noise.normal(row, f.shape[-1], f.dtype)

    def init_bias(self, mean, share):
        return mean.clone()

    def init_own(self, mean, variance):
        if not self.learned:
            return {}
        psi = variance if self.noise == "diag" else variance.mean(-1, keepdim=True)
        return {"noise": self.raw(psi.double()).float()}


class Bernoulli(Likelihood):
    """x_d ~ Bern(sigmoid(f_d)), the logistic likelihood (Liang et al. 2018, eq. 4)."""

    def log_prob(self, x, f, own=None):
        return _BernoulliOfLogits.apply(f, x)

    def log_prob_and_back(self, x, f, own=None):
        return and_back(_BernoulliOfLogits, f, x)

    def log_prob_of_linear(self, x, h, weight, bias):
        return self.log_prob(x, h @ weight + bias)

    def log_base(self, x):
        return torch.zeros_like(x.n_observed())

    def mean(self, f, own=None):
        return f.sigmoid()

    def sample(self, f, own, noise, row):
        return (noise.uniform(row, f.shape[-1], f.dtype) < f.sigmoid()).to(f.dtype)

    def init_bias(self, mean, share):
        mean = mean.clamp(1e-4, 1 - 1e-4)
        return (mean / (1 - mean)).log()

    def check(self, X):
        if X.nnz and X.data.max() > 1:
            raise ValueError(
                f"likelihood='bernoulli' expects X in [0, 1], but {entry(X, X.data.argmax())}; "
                "binarise it, for example with sklearn.preprocessing.Binarizer(), or use likelihood='multinomial'."
            )


class Multinomial(Likelihood):
    """x_u ~ Mult(N_u, softmax(f_u)): a row of clicks as N_u draws of items (Liang et al. 2018, eq. 2).

    Where columns are missing, the others are multinomial given their own total.

    Parameters
    ----------
    total : float or None, default=None
        Average total of a row, for `mean` and `sample`; None counts as 1. A sample has the whole number below or above
        it, at random.
    """

    empty_rows_inform = False  # no draws, no evidence

    def __init__(self, total=None):
        self.total = total

    def log_prob(self, x, f, own=None):
        return x.inner(f) - x.sum() * x.logsumexp(f)

    def log_prob_of_linear(self, x, h, weight, bias):
        """log_prob(x, h @ weight + bias), with one buffer of users x items for loss and gradient together."""
        return _MultinomialOfLinear.apply(h, weight, bias, x)

    def log_base(self, x):
        return (x.sum() + 1).lgamma() - x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return self._total() * f.softmax(-1)

    def sample(self, f, own, noise, row):
        whole, rest = divmod(self._total(), 1)
        if whole > _MANY_DRAWS:
            total = whole + (noise.fold("total").uniform(row, 1)[:, 0] < rest).double()
            split = _multinomial_split(total, f.double().softmax(-1), _fine_uniform(noise.fold("item"), row, f))
            return split.to(f)
        n_draws = int(whole) + (rest > 0)
        counted = torch.ones(len(f), n_draws, dtype=f.dtype, device=f.device)
        if rest:
            counted[:, -1:] = (noise.fold("total").uniform(row, 1) < rest).to(f.dtype)
        drawn = _quantile(f.softmax(-1), noise.fold("item").uniform(row, n_draws, torch.float64))
        return torch.zeros_like(f).scatter_add_(-1, drawn, counted)

    def _total(self):
        return 1.0 if self.total is None else float(self.total)

    def init_bias(self, mean, share):
        """Biases at the marginal maximum likelihood, from the mean of each column and its share of stored entries.

        Items that nobody has get a hundredth of the rarest one's.
        """
        floor = 0.01 * mean[mean > 0].min() if (mean > 0).any() else 1.0
        mean = mean.clamp(min=floor)
        return (mean / mean.sum()).log()

    def check(self, X):
        """Any non-negative matrix will do."""


class Categorical(Likelihood):
    """One level of each column: its block of one-hot columns ~ Cat(softmax of f's block).

    Parameters
    ----------
    sizes : sequence of int
        Number of levels of each column, in the order of their blocks.
    """

    def __init__(self, sizes):
        self.sizes = tuple(int(size) for size in sizes)
        starts = np.cumsum((0, *self.sizes))
        by_size = sorted(range(len(self.sizes)), key=self.sizes.__getitem__)  # stable
        self._groups, order = [], []  # blocks of one size cost one operation, however many
        for size, blocks in groupby(by_size, key=self.sizes.__getitem__):
            blocks = np.array(list(blocks))
            columns = (starts[blocks][:, None] + np.arange(size)).ravel()
            neighbours = len(columns) and columns[-1] - columns[0] == len(columns) - 1
            self._groups.append((size, blocks, slice(columns[0], columns[-1] + 1) if neighbours else columns))
            order.append(columns)
        order = np.concatenate(order) if order else np.arange(0)
        self._back = None if (np.diff(order) == 1).all() else np.argsort(order)

    def log_prob(self, x, f, own=None):
        return x.inner(self._by_block(f, lambda block, which: block.log_softmax(-1)))

    def log_base(self, x):
        return torch.zeros_like(x.n_observed())

    def mean(self, f, own=None):
        return self._by_block(f, lambda block, which: block.softmax(-1))

    def sample(self, f, own, noise, row):
        u = noise.uniform(row, len(self.sizes), torch.float64)

        def draw(block, which):
            level = _quantile(block.softmax(-1), u[:, which, None])
            return F.one_hot(level[..., 0], block.shape[-1]).to(f.dtype)

        return self._by_block(f, draw)

    def init_bias(self, mean, share):
        return mean.clamp(min=_LEAST_RATE).log()

    def _by_block(self, f, change):
        """Blocks of f, (..., n_blocks, size) with their numbers, changed group by group and put back in their order."""
        changed = []
        for size, blocks, columns in self._groups:
            part = f[..., columns] if isinstance(columns, slice) else f.index_select(-1, _placed(columns, f))
            changed.append(change(part.unflatten(-1, (len(blocks), size)), blocks).flatten(-2))
        if len(changed) == 1:
            return changed[0] if self._back is None else changed[0].index_select(-1, _placed(self._back, f))
        changed = torch.cat(changed, -1) if changed else torch.zeros_like(f)
        return changed if self._back is None else changed.index_select(-1, _placed(self._back, f))


class Poisson(Likelihood):
    """x_d ~ Poisson(exp(f_d)): counts.

    Above exp(30) the rate goes on as a straight line, so that a wild step of training has a finite gradient.
    """

    def log_prob(self, x, f, own=None):
        return x.inner(f) - x.over_cells(_Rate.apply(f))

    def log_base(self, x):
        return -x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return f.clamp(max=_STEEP).exp()

    def sample(self, f, own, noise, row):
        rate = self.mean(f).double().cpu().numpy()
        return torch.from_numpy(_poisson_quantile(_fine_uniform(noise, row, f), rate)).to(f)

    def init_bias(self, mean, share):
        return mean.clamp(min=_LEAST_RATE).log()


class NegativeBinomial(Likelihood):
    """x_d ~ NB with mean mu_d = exp(f_d) and variance mu_d + mu_d^2 / r_d: counts that vary more than Poisson's.

    own["dispersion"] is log r, of shape (D,); its size is held below 15.
    """

    def log_prob(self, x, f, own=None):
        s = self._log_dispersion(own, f)
        r = s.exp()
        above = _log_rising(x.value, r, s) - (x.value + r) * F.softplus(f - s)
        return x.inner(f) + x.over_cells(above)

    def log_base(self, x):
        return -x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return f.clamp(max=_STEEP).exp()

    def sample(self, f, own, noise, row):
        r = self._log_dispersion(own, f).double().exp().cpu().numpy()  # a Poisson whose rate is a gamma
        gamma = special.gammaincinv(r, _fine_uniform(noise.fold("rate"), row, f)) / r
        rate = self.mean(f).double().cpu().numpy() * gamma
        return torch.from_numpy(_poisson_quantile(_fine_uniform(noise.fold("count"), row, f), rate)).to(f)

    def init_bias(self, mean, share):
        return mean.clamp(min=_LEAST_RATE).log()

    def init_own(self, mean, variance):
        """Log-dispersions by the method of moments, r = mean^2 / (variance - mean), within 0.01 and 10,000."""
        mean, variance = mean.double(), variance.double()
        r = mean.square() / (variance - mean).clamp(min=_LEAST_RATE**2)
        return {"dispersion": r.clamp(1e-2, 1e4).log().float()}

    def _log_dispersion(self, own, f):
        return _beside(own["dispersion"], f).clamp(-_LOG_DISPERSION, _LOG_DISPERSION)


class Mixed(Likelihood):
    """Several likelihoods side by side, independent given f: one table of real, binary, categorical, count columns.

    Own parameters are named by the part's number: "0.noise".

    Parameters
    ----------
    parts : list of tuples (likelihood, start, stop)
        Which columns each has, in the layout of x; one after the other, from 0, without gaps.

    Raises
    ------
    ValueError
        If the parts leave a gap, overlap or are out of order.
    """

    def __init__(self, parts):
        self.parts, end = list(parts), 0
        for i, (_, start, stop) in enumerate(self.parts):
            if start != end or stop < start:
                raise ValueError(f"Part {i} has the columns {start} to {stop}, but the part before it ends at {end}.")
            end = stop
        self.empty_rows_inform = any(likelihood.empty_rows_inform for likelihood, _, _ in self.parts)

    def log_prob(self, x, f, own=None):
        return sum(part.log_prob(x.columns(*at), f_part, mine) for part, at, f_part, mine in self._split(f, own))

    def log_base(self, x):
        return sum(part.log_base(x.columns(start, stop)) for part, start, stop in self.parts)

    def mean(self, f, own=None):
        return torch.cat([part.mean(f_part, mine) for part, _, f_part, mine in self._split(f, own)], -1)

    def sample(self, f, own, noise, row):
        split = enumerate(self._split(f, own))
        drawn = [part.sample(f_part, mine, noise.fold("part", i), row) for i, (part, _, f_part, mine) in split]
        return torch.cat(drawn, -1)

    def init_bias(self, mean, share):
        return torch.cat(
            [part.init_bias(mean[a:b], None if share is None else share[a:b]) for part, a, b in self.parts]
        )

    def init_own(self, mean, variance):
        own = {}
        for i, (part, start, stop) in enumerate(self.parts):
            for name, tensor in part.init_own(mean[start:stop], variance[start:stop]).items():
                own[f"{i}.{name}"] = tensor
        return own

    def own_of(self, i, own):
        """The own parameters of part i, by the names that it knows."""
        prefix = f"{i}."
        return {name.removeprefix(prefix): own[name] for name in own or () if name.startswith(prefix)}

    def _split(self, f, own):
        """Each part with its bounds, its columns of f and its own parameters."""
        widths = [stop - start for _, start, stop in self.parts]  # one split: its gradient is one cat
        for i, ((part, *at), f_part) in enumerate(zip(self.parts, f.split(widths, -1), strict=True)):
            yield part, at, f_part, self.own_of(i, own)


class WeightedGaussian(Likelihood):
    """x_ui ~ N(f_ui, 1 / c_ui), with confidence c_1 where a user clicked and c_0 < c_1 elsewhere (eq. 3).

    For sparse rows only.

    Parameters
    ----------
    confidence : tuple of two floats
        (c_0, c_1).
    """

    def __init__(self, confidence):
        self.c0, self.c1 = confidence

    def log_prob(self, x, f):
        clicked = x.take(f)
        correction = self.c1 * (x.value - clicked).square() - self.c0 * clicked.square()
        return -0.5 * (self.c0 * f.square().sum(-1) + x.sum(correction))

    def log_prob_of_linear(self, x, h, weight, bias):
        return self.log_prob(x, h @ weight + bias)

    def log_base(self, x):
        n_clicked = x.sum(torch.ones_like(x.value))
        n_other = x.n_columns - n_clicked
        return 0.5 * (n_clicked * math.log(self.c1 / (2 * math.pi)) + n_other * math.log(self.c0 / (2 * math.pi)))

    def init_bias(self, mean, share):
        """The mean of each column, cells weighted by their confidence."""
        return self.c1 * mean / (self.c1 * share + self.c0 * (1 - share))

    def check(self, X):
        """Any non-negative matrix will do."""


def _beside(parameter, f):
    """Give a parameter (D,) or (M, D) the axes between members and columns that f has, and its dtype."""
    between = (1,) * (f.dim() - parameter.dim())
    return parameter.reshape(*parameter.shape[:-1], *between, parameter.shape[-1]).to(f)


def _placed(columns, f):
    return torch.from_numpy(columns).to(f.device)


def _quantile(probability, u):
    """The level at which the sum of the probabilities (..., D) passes u (..., n): int64 of shape (..., n)."""
    below = probability.double().cumsum(-1)
    u = u * below[..., -1:]  # the last sum is 1 to rounding only
    return torch.searchsorted(below, u).clamp_(max=probability.shape[-1] - 1)


def _fine_uniform(noise, row, f):
    """Uniform on (0, 1) to 46 bits, as a float64 array of the shape of f: rare counts need the ends of the interval."""
    high, low = (noise.fold(name).uniform(row, f.shape[-1], torch.float64) for name in ("high", "low"))
    return (high + (low - 0.5) * 2.0**-23).cpu().numpy()


def _multinomial_split(total, probability, u):
    """Totals (B,) split into counts (B, D), column by column: each binomial, given what those before it left."""
    left, p = total.cpu().numpy(), probability.cpu().numpy()
    rest = p[:, ::-1].cumsum(1)[:, ::-1]
    share, counts = np.divide(p, rest, out=np.ones_like(p), where=rest > 0), np.empty_like(p)
    for column in range(p.shape[1]):
        counts[:, column] = stats.binom.ppf(u[:, column], left, share[:, column])
        left = left - counts[:, column]
    return torch.from_numpy(counts)


def _poisson_quantile(u, rate):
    """Least count whose cumulative probability reaches u; from a normal where the rate is huge."""
    exact = np.ceil(
        special.pdtrik(u, np.minimum(rate, _MANY))
    )  # the inverse of a smooth extension: one may be too many
    exact = np.where(special.pdtr(np.maximum(exact - 1, 0), rate) >= u, np.maximum(exact - 1, 0), exact)
    return np.where(rate < _MANY, exact, np.rint(rate + np.sqrt(rate) * special.ndtri(u)))


def _log_rising(x, r, s):
    """log(Gamma(x + r) / Gamma(r)) - x log r, with s = log r.

    Where r is large, the first is a difference of huge numbers: there by Stirling's series, so that float32 will do.
    """
    big = r.clamp(min=_LARGE_DISPERSION)
    y = x + big
    by_series = (y - 0.5) * (x / big).log1p() - x + _beyond_stirling(y) - _beyond_stirling(big)
    return torch.where(r > _LARGE_DISPERSION, by_series, (x + r).lgamma() - r.lgamma() - x * s)


def _beyond_stirling(y):
    """log Gamma(y) less (y - 1/2) log y - y + log(2 pi) / 2, to 1e-12 for y >= 50."""
    inverse = 1 / y
    return inverse * (1 / 12 - inverse.square() / 360)


class _Rate(torch.autograd.Function):
    """exp(f), from `_STEEP` on its tangent there: the gradient stays finite."""

    @staticmethod
    def forward(ctx, f):
        rate = f.clamp(max=_STEEP).exp_()
        ctx.save_for_backward(rate)
        return torch.addcmul(rate, rate, (f - _STEEP).relu_())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (rate,) = ctx.saved_tensors
        return upstream * rate


class _BernoulliOfLogits(torch.autograd.Function):
    """sum_d x_d f_d - log(1 + exp(f_d)) over the observed cells.

    The sigmoid is the gradient and, by log(1 + exp(f)) = max(f, 0) - log sigmoid(|f|), half of the loss: one
    exponential and one cheap logarithm, where softplus and its gradient take two and a dear one.
    """

    @staticmethod
    def forward(ctx, f, x):
        p = f.sigmoid()
        larger = torch.maximum(p, p.new_ones(()) - p)
        ctx.save_for_backward(p)
        ctx.x = x
        return x.inner(f, beside=larger.log_().sub_(f.relu()))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (p,) = ctx.saved_tensors
        return ctx.x.minus(p).mul_(upstream[..., None]), None


class _MultinomialOfLinear(torch.autograd.Function):
    """Multinomial log-likelihood of a linear last layer.

    Written out plainly, f, its log-softmax, the gradients of both and the dense x are five arrays of users x items.
    Here f becomes its own softmax in place, and that its own gradient, N_u pi_ui - x_ui: one array. That is what
    leaves room for wide catalogues, and the passes over memory saved are time saved as well.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, x):
        f = torch.addmm(bias, h, weight)
        total = x.sum()
        linear = x.inner(f)
        top = f.amax(1, keepdim=True)
        norm = f.sub_(top).exp_().sum(1)
        ctx.save_for_backward(h, weight, f, total / norm)
        ctx.x = x
        return linear - total * (top[:, 0] + norm.log())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        h, weight, softmax, scale = ctx.saved_tensors
        x = ctx.x
        gradient = softmax.mul_((-scale * upstream)[:, None])
        gradient.view(-1).index_add_(0, x.cell, x.value * upstream[x.user])
        kept = kept_gradient(weight)
        of_weight = h.T @ gradient if kept is None else kept.addmm_(h.T, gradient)
        return gradient @ weight.T, of_weight if kept is None else None, gradient.sum(0), None
