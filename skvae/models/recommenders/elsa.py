"""ELSA: a linear map of low rank from a user's items to scores of all items, where no item predicts itself.

    z = x D A,   f(x) = x D (A A' - I) S = z A' S - x D S,   |a_i| = 1,   s_i = p_i^0.4,   d_i = p_i^-c,
    loss(x) = | x / |x| - f(x~) / |f(x~)| |^2 = 2 - 2 x f' / (|x| |f|)

with p_i the mean of column i over users, c the discount, and x~ the row of which training hides a part. A row a_i of A
has length 1, so the diagonal of A A' - I is zero. Neither items x items nor the scores of all items are made in
training, since with y = x~ D

    x f'  = z (A' S x') - y S x',     |f|^2 = z H z' - 2 z (A' S^2 y') + y S^2 y',     H = A' S^2 A   (K x K).

Vancura, Alves, Kasalicky and Kordik, *Scalable Linear Shallow Autoencoder for Collaborative Filtering*, RecSys 2022,
equations 5 to 7, have D = S = I and x~ = x. EASE (Steck 2019) has such factors too: with r_ij the correlation of items
i and j given all others, and v_i the variance of item i that the others leave, its weight is r_ij (v_j / v_i)^0.5. So
popular items get higher scores, and count less in those of others. Hidden items take the place of its penalty.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from skvae._tensors import keep_gradient, kept_gradient, products
from skvae.elbo import Bound, Posterior
from skvae.likelihoods._base import ClickLikelihood
from skvae.models.recommenders.mult_vae import normalised
from skvae.networks import glorot

_EXPONENT = 0.4  # of popularity
_LEAST = 1e-12  # of a squared length, which rounding may make negative


class Direction(ClickLikelihood):
    """-| x / |x| - f / |f| |^2, in the place of a log-likelihood."""

    empty_rows_inform = False

    def log_prob(self, x, f, own=None):
        value = x.at_unit_length()
        return self.of_products(x.with_values(value).inner(f), x.over_cells(f.square()))

    def of_products(self, inner, squared):
        """The same by x f' / |x| and |f|^2, both (n_rows,)."""
        return 2 * inner / squared.clamp(min=_LEAST).sqrt() - 2

    def log_base(self, x):
        return torch.zeros_like(x.sum())

    def init_bias(self, mean, share):
        return mean.clone()


class ELSA:
    """The model of one size; parameters are passed in and returned.

    Parameters
    ----------
    n_items, n_components : int
    dropout : float
        Share of the input's entries that training hides.
    discount : float, default=0.0
        Power of popularity by which the input's entries are divided.
    """

    item_axes = {"items.weight": 0, "popularity": 0}
    means_over_users = ("popularity",)

    def __init__(self, n_items, n_components, dropout, discount=0.0):
        self.n_items, self.n_components, self.dropout, self.discount = n_items, n_components, dropout, discount
        self.likelihood = Direction()

    def init(self, noise, mean, share):
        """Random directions of the items, and the mean of each column."""
        weight = glorot(self.n_items, self.n_components, noise.fold("items"))
        return {"items.weight": weight.div_(weight.norm(dim=1, keepdim=True)), "popularity": mean.clone()}

    def bound(self, params, x, noise=None):
        """Minus the loss of each row, with a KL term of no dimensions.

        Its gradient is that of A first, which is put together in one array and then leads to that of the weight.
        """
        weight, s = params["items.weight"], scale(params)
        length = weight.detach().norm(dim=1, keepdim=True)
        A = (weight.detach() / length).requires_grad_(weight.requires_grad)
        keep_gradient(A, torch.zeros_like(A))
        seen = self._weighed(params, normalised(x, self.dropout, noise))  # x~ D / |x|
        target = x.with_values(x.at_unit_length() * s[x.item])  # x S / |x|
        twice = x.with_values(seen.value * s[x.item].square())  # x~ D S^2 / |x|
        nothing = A.new_zeros(self.n_components)
        z, y, u = (rows.linear(A, nothing) for rows in (seen, target, twice))
        H = x.joined(_Gram.apply(A, s.square()))
        of_target, of_seen = x.joined(*(x.own_sum(seen.value * rows.value) for rows in (target, twice)))
        inner, squared = (z * y).sum(1) - of_target, ((z @ H) * z).sum(1) - 2 * (z * u).sum(1) + of_seen
        log_prob = self.likelihood.of_products(inner, squared)

        def back(of_log_prob, of_kl):
            log_prob.backward(of_log_prob)
            along = torch.linalg.vecdot(A.detach(), A.grad)[:, None]  # the sphere alone can be moved on
            kept_gradient(weight).add_(A.grad.addcmul_(A.detach(), along, value=-1).div_(length))

        return Bound(log_prob, z.new_zeros(len(z), 0), by_hand=back)

    def scores(self, params, x):
        """f of each row, (n_rows, n_items); of a row without items that users had, the popularity of the items."""
        s, x = scale(params), self._weighed(params, x)
        f = self._user_vectors(params, x) @ params["items.weight"].T
        f.mul_(s / params["items.weight"].norm(dim=1)).view(-1).index_add_(0, x.cell, -x.value * s[x.item])
        return torch.where(x.sum()[:, None] > 0, f, params["popularity"])

    def encode(self, params, x):
        """z of each row, as a posterior of no width."""
        z = self._user_vectors(params, self._weighed(params, x))
        return Posterior(z, torch.full_like(z, -math.inf))

    def _user_vectors(self, params, x):
        """x A, of rows that are weighed."""
        weight = params["items.weight"]
        length = weight[x.item].norm(dim=1)
        return x.with_values(x.value / length).linear(weight, weight.new_zeros(self.n_components))

    def _weighed(self, params, x):
        """x D."""
        return x.with_values(x.value * self._input_scale(params)[x.item])

    def _input_scale(self, params):
        """The diagonal of D, (n_items,); 0 for an item that no user had, whose vector is still random."""
        popularity = params["popularity"]
        return torch.where(popularity > 0, popularity.pow(-self.discount), 0)

    def effects(self, params, i, j):
        """How much an interaction with item i adds to the score of item j, for items i and j (n,)."""
        a, b = (params["items.weight"][item] for item in (i, j))
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        return cosine.masked_fill_(i == j, 0) * self._input_scale(params)[i] * scale(params)[j]


def scale(params):
    """The diagonal of S, (n_items,)."""
    return params["popularity"].pow(_EXPONENT)


class _Gram(torch.autograd.Function):
    """A' diag(w) A, whose gradient is added to the one that A keeps."""

    @staticmethod
    def forward(ctx, A, w):
        weighted, ctx.products = A * w[:, None], products()
        ctx.A, ctx.weighted = A, weighted
        return ctx.products.times(A.T, weighted)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        ctx.products.add_to(kept_gradient(ctx.A), ctx.weighted, upstream + upstream.T)
        return None, None
