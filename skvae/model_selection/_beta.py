"""The weight of the KL term, chosen while it rises."""

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch

_RISING = {
    "beta": 1.0,
    "annealing": "linear",
    "anneal_fraction": 1.0,
    "learning_rate_schedule": "constant",
    "early_stopping": True,  # no epoch counts before the annealing has ended, so that all epochs are made
}


def select_beta(recommender, X, *, sample_weight=None, X_val=None):
    """Choose beta by one fit in which the weight of the KL term rises from 0 to 1, and fit again with the choice.

    The method of Liang et al. (2018). The first fit has a constant learning rate, and ranks hidden items of validation
    users after every epoch. Beta is the weight that the KL term had at the end of the epoch with the highest score. In
    the second fit the weight rises at the same rate, and stops at beta. So two fits replace the many of a grid search.
    The weights that it compares are 1, 2, 3, ... times 1 / max_iter: set `max_iter` for a finer grid.

    Parameters
    ----------
    recommender : MultVAERecommender
        It is cloned. The second fit has its parameters but for beta, annealing and anneal_fraction.
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Both fits learn from them.
    sample_weight : array-like of shape (n_users,) or None, default=None
        How often each user counts in the bound.
    X_val : {array-like, sparse matrix} of shape (n_validation_users, n_items) or None, default=None
        Other users, who are ranked by both fits. With None the first fit sets `validation_fraction` of the users of X
        aside. The second fit then does so only as its parameter early_stopping says.

    Returns
    -------
    result : Bunch
        With the attributes

        beta : float
            The chosen weight, a multiple of 1 / n_epochs.
        recommender : estimator
            A clone with ``beta=beta, annealing="linear", anneal_fraction=beta``, fitted to X.
        betas : ndarray of shape (n_epochs,)
            Weight of the KL term at the end of each epoch of the first fit.
        validation_scores : ndarray of shape (n_epochs,)
            ``NDCG@100`` of the validation users after each epoch of the first fit.

    Raises
    ------
    ValueError
        If the estimator has no parameter beta, or if there are too few users to set some aside.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Fits anew for each candidate, on several folds.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational Autoencoders for Collaborative Filtering*, WWW 2018, sec. 2.2.2.

    Examples
    --------
    >>> from skvae import MultVAERecommender
    >>> from skvae.datasets import make_interactions
    >>> from skvae.model_selection import select_beta
    >>> X = make_interactions(300, 80, random_state=0)
    >>> result = select_beta(MultVAERecommender(n_components=10, max_iter=20, random_state=0), X)
    >>> result.beta == float(result.betas[result.validation_scores.argmax()])
    True
    """
    missing = sorted(_RISING.keys() - recommender.get_params(deep=False).keys())
    if missing:
        raise ValueError(
            "select_beta takes a recommender with the parameters of MultVAERecommender, but "
            f"{type(recommender).__name__} does not have {', '.join(missing)}."
        )
    given = {"sample_weight": sample_weight, "X_val": X_val}
    scores = clone(recommender).set_params(**_RISING).fit(X, **given).validation_scores_
    betas = np.arange(1, len(scores) + 1) / len(scores)
    beta = float(betas[np.argmax(scores)])
    chosen = clone(recommender).set_params(beta=beta, annealing="linear", anneal_fraction=beta)
    return Bunch(beta=beta, recommender=chosen.fit(X, **given), betas=betas, validation_scores=scores)
