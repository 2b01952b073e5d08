"""EASE: a linear map from a user's items to scores of all items, in closed form.

    B = argmin ||X - X B||^2 + lambda ||B||^2   with diag(B) = 0,
    P = (X' W X + lambda I)^-1,   B_ij = -P_ij / P_jj for i != j

Notation of Steck, *Embarrassingly Shallow Autoencoders for Sparse Data*, WWW 2019, equation 8. W is the diagonal matrix
of the users' weights.
"""

import torch

from skvae._tensors import cholesky


def item_weights(gram, l2):
    """Compute B (n_items, n_items) from the Gram matrix X' W X, which is overwritten.

    Returns
    -------
    B : Tensor of shape (n_items, n_items)
    error : float
        By how much of themselves rounding may change the weights, to first order; 1 or NaN where nothing is left of
        them. It is the largest variance inflation factor, A_jj P_jj with A = P^-1, times the machine epsilon. The
        factors do not depend on the units of the items, nor does a Cholesky factorisation.
    """
    gram.diagonal().add_(l2)
    diagonal = gram.diagonal().clone()
    try:
        P = cholesky(gram).cholesky_inverse()
    except torch.linalg.LinAlgError:  # not positive definite, by rounding
        return gram.fill_(torch.nan), torch.nan
    error = (diagonal * P.diagonal()).max() * torch.finfo(P.dtype).eps
    P.div_(-P.diagonal().clone())
    return P.fill_diagonal_(0.0), float(error)
