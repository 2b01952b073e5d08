"""EASE: a linear map from a user's items to scores of all items, in closed form.

    B = argmin ||X - X B||^2 + lambda ||B||^2   with diag(B) = 0,
    P = (X' W X + lambda I)^-1,   B_ij = -P_ij / P_jj for i != j

Notation of Steck, *Embarrassingly Shallow Autoencoders for Sparse Data*, WWW 2019, equation 8. W is the diagonal matrix
of the users' weights.
"""

from skvae._tensors import cholesky


def item_weights(gram, l2):
    """Compute B (n_items, n_items) from the Gram matrix X' W X, which is overwritten."""
    gram.diagonal().add_(l2)
    L = cholesky(gram)
    P = L.cholesky_inverse()
    P.div_(-P.diagonal().clone())
    return P.fill_diagonal_(0.0)
