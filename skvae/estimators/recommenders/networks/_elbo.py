"""The evidence lower bound of users, for recommenders that are variational autoencoders."""

import torch

from skvae._tensors import Noise, block_rows
from skvae.estimators.recommenders.networks._network_recommender import rows_beside

_DRAWS = 32


class ElboMixin:
    """`elbo` of a `NetworkRecommender` whose model has expected_bound(params, batch, draws)."""

    def elbo(self, X):
        """Bound log p(x) of each user from below, at beta = 1.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        bound : ndarray of shape (n_users,)
            Nats. The KL term is exact, the expected log-likelihood a mean over 32 draws of z that are the same for
            every user and every call. It is normalised, with the multinomial coefficient: 0 for a user without
            interactions. (Under the other likelihoods such a row is evidence too, and its bound is negative.)
        """
        X = self._check_fitted_X(X)
        model, params = self._fitted_model(X.dtype)
        rows = rows_beside(X, params)
        model.likelihood.check(X)
        draws = Noise(0).fold("elbo").normal(torch.arange(_DRAWS), model.n_components, rows.dtype)
        size = block_rows(X.shape[1])
        bounds = [model.expected_bound(params, batch, draws.to(rows.device)) for batch in rows.batches(size)]
        return torch.cat(bounds).cpu().numpy()
