"""A Gaussian mixture over some columns, given the others."""

from typing import NamedTuple

import numpy as np


class ConditionalMixture(NamedTuple):
    """A Gaussian mixture over some columns for each of n rows, given the other columns.

    Attributes
    ----------
    weights : ndarray of shape (n_samples, n_components)
        p(k | given).
    means : ndarray of shape (n_samples, n_components, n_rest)
        Means of the components.
    covariances : ndarray of shape (n_components, n_rest, n_rest)
        Covariances of the components: the same for every row.
    columns : int64 ndarray of shape (n_rest,)
        Which columns these are.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    columns: np.ndarray

    def mean(self):
        """E[rest | given], the mixture regression.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_rest)
        """
        return np.einsum("nk,nkd->nd", self.weights, self.means)

    def covariance(self):
        """Cov[rest | given]: the components' own covariances and the spread of their means.

        Returns
        -------
        covariance : ndarray of shape (n_samples, n_rest, n_rest)
        """
        apart = self.means - self.mean()[:, None]
        within = np.einsum("nk,kde->nde", self.weights, self.covariances)
        return within + np.einsum("nk,nkd,nke->nde", self.weights, apart, apart)
