"""`select_beta`: the weight of the KL term, chosen while it rises."""

import numpy as np
import pytest
from sklearn.base import clone

from skvae import EASERecommender, MultDAERecommender, MultVAERecommender
from skvae.datasets import make_interactions
from skvae.model_selection import select_beta

X = make_interactions(120, 30, random_state=0)


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 4, "max_iter": 5, "batch_size": 30, "random_state": 0, **parameters})


@pytest.mark.parametrize("given", [{"X_val": X[90:]}, {"sample_weight": 1 + np.arange(90) % 3}, {}])
def test_the_choice_is_that_of_a_run_by_hand(given):
    """The trace is that of one fit, the choice its best epoch, and the result a plain fit with it."""
    recommender, users = tiny(beta=0.3, annealing="cyclical"), X[:90]
    before = recommender.get_params()
    result = select_beta(recommender, users, **given)
    asked = dict(beta=1.0, annealing=lambda fraction: fraction, learning_rate_schedule="constant", early_stopping=True)
    rising = tiny(**asked).fit(users, **given)
    assert result.betas.tolist() == [epoch / 5 for epoch in range(1, 6)]
    assert np.array_equal(result.validation_scores, rising.validation_scores_)
    assert result.beta == result.betas[np.argmax(rising.validation_scores_)]
    again = tiny(beta=result.beta, anneal_fraction=result.beta).fit(users, **given)
    assert np.array_equal(result.recommender.decision_function(users), again.decision_function(users))
    assert recommender.get_params() == before and not hasattr(recommender, "parameters_")
    assert clone(result.recommender).get_params() == {**before, **changed(result.beta)}


def changed(beta):
    return {"beta": beta, "annealing": "linear", "anneal_fraction": beta}


def test_the_second_fit_rises_at_the_rate_of_the_first(monkeypatch):
    from skvae.engines import gradient

    plans, ascend = [], gradient.ascend
    monkeypatch.setattr(gradient, "ascend", lambda *args, **kw: plans.append(kw["plan"]) or ascend(*args, **kw))
    beta = select_beta(tiny(), X).beta
    first, second = plans
    for fraction in (0.0, 0.1, 0.5, 0.9):
        assert first.beta(fraction) == pytest.approx(fraction)
        assert second.beta(fraction) == pytest.approx(min(fraction, beta))


def test_all_epochs_of_the_first_fit_count():
    """Also with little patience, which the second fit keeps."""
    result = select_beta(tiny(max_iter=12, n_iter_no_change=1), X[:90], X_val=X[90:])
    assert len(result.betas) == 12
    assert result.recommender.n_iter_no_change == 1


@pytest.mark.parametrize("other", [MultDAERecommender(), EASERecommender()])
def test_a_recommender_without_beta_is_refused(other):
    with pytest.raises(ValueError, match=rf"but {type(other).__name__} does not have .*beta"):
        select_beta(other, X)
