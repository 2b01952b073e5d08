"""Cases of `shared_fits.py`: networks of tables."""

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from sklearn.base import clone

from skvae import AutoencoderTransformer, GANGenerator, GaussianMixtureEM, KMeansLite, VAETransformer

SHORT = {"n_components": 2, "max_iter": 2, "batch_size": 300, "precision": "float64", "random_state": 0}
PASSES = SHORT | {"early_stopping": False}


def frame(X):
    """A table of numbers, Booleans and words, of which the last rows have one more."""
    words = np.where(X[:, 2] > 0, "more", "less").astype(object)
    words[-20:] = "none"
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1] > 0, "c": words, "d": X[:, 3]})


def networks_of_tables(X, gaps, wide):
    """Name, estimator, rows, attributes to compare, and whether to weigh the rows, as of `cases`."""
    vae = ("lower_bounds_", "validation_scores_", "kl_per_dimension_", "n_samples_seen_", "nonlinear_")
    others = ("lower_bounds_", "validation_scores_", "n_samples_seen_")
    yield "VAE", VAETransformer(**PASSES), X, vae, True
    yield "VAE, float32", VAETransformer(**PASSES | {"precision": "float32"}), X, vae[:1], False
    yield "VAE, early stopping, gaps", VAETransformer(**SHORT | {"n_components": 1}), gaps, vae, True
    yield "VAE, wide", VAETransformer(**SHORT), wide, vae, False
    deep = PASSES | {"n_components": (2, 1), "max_iter": 1}
    yield "VAE of layers, free bits", VAETransformer(free_bits=0.05, beta=(1.0, 0.5), **deep), X, vae, True
    yield "VAE, mixed columns", VAETransformer(likelihood="auto", **SHORT), frame(X), vae, False
    module = VAETransformer(decoder=torch.nn.Linear, objective="iwae", n_draws=2, **PASSES | {"max_iter": 1})
    yield "VAE, own decoder", module, X, vae, False
    autoencoder = (*others, "reconstruction_error_")
    yield "autoencoder, gaps", AutoencoderTransformer(**SHORT), gaps, autoencoder, True
    corrupted = AutoencoderTransformer(denoising="salt_and_pepper", sparsity=(0.1, 0.1), **PASSES)
    yield "autoencoder, corrupted and sparse", corrupted, gaps, autoencoder, False
    yield "PCA", AutoencoderTransformer(**SHORT, hidden_layer_sizes=()), wide, autoencoder, False
    yield "GAN", GANGenerator(early_stopping=True, **SHORT), frame(X), others, False


def networks_go_on(tables, share, gaps_of):
    """Gaps after early stopping by given rows, then a call of partial_fit, and then a warm start."""
    for X in tables:
        for kind in (VAETransformer, AutoencoderTransformer, GANGenerator):
            shared, alone = kind(**SHORT, data_parallel=True), kind(**SHORT)
            for each, take in ((shared, share), (alone, lambda rows: rows)):
                each.set_params(early_stopping=True, max_iter=1).fit(take(X), X_val=take(X[::4] + 1.0))
                each.partial_fit(take(X + 1.0)).set_params(warm_start=True).fit(take(X))
            samples = abs(shared.n_samples_seen_ - alone.n_samples_seen_)
            yield f"{kind.__name__}, {len(X)} rows,", gaps_of(shared, alone) | {"samples": samples}


class Asked:
    """A callback that scores, stops or fails."""

    def __init__(self, does):
        self.does = does

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator=None):
        if self.does == "fails":
            raise ValueError("no more")
        if self.does == "scores" and fitted_estimator is not None:  # of an epoch
            fitted_estimator.score(X)
        return self.does == "stops"


class Failing(torch.nn.Linear):
    """A decoder that fails in process 1 only."""

    def forward(self, z):
        if dist.get_rank() == 1 and z.device.type == "cpu" and len(z) > 2:
            raise RuntimeError("no decoder here")
        return super().forward(z)


def errors_of_networks(X, rank, error_of):
    """What both processes are told of the mistakes of one."""
    vae = VAETransformer(**PASSES, data_parallel=True)
    fitted = clone(vae).fit(X)
    other = clone(vae).set_params(data_parallel=False, random_state=rank).fit(X)
    mixture = GaussianMixtureEM(2, random_state=0).fit(X + rank)
    words = pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(str) if rank else X[:, 1]})
    weight = [None, np.ones(len(X))][rank]
    return {
        "score": error_of(fitted.score, X, None, weight),
        "score of k-means": error_of(KMeansLite(2, random_state=0, data_parallel=True).fit(X).score, X, None, weight),
        "other state": error_of(other.set_params(data_parallel=True, random_state=0).partial_fit, X),
        "other mixture": error_of(mixture.set_params(data_parallel=True).partial_fit, X),
        "svi": error_of(clone(vae).set_params(inference="svi").fit, X),
        "X_val": error_of(clone(vae).set_params(early_stopping=True).fit, X, None, None, [None, X][rank]),
        "kinds": error_of(clone(vae).set_params(likelihood="auto").fit, words),
        "no rows": error_of(vae.fit, X[:0]),
        "diverges": error_of(clone(vae).set_params(learning_rate=1e30).fit, X),
        "module": error_of(clone(vae).set_params(decoder=Failing).fit, X),
        **{f"callback {does}": error_of(_told(vae, does).fit, X) for does in ("fails", "scores", "stops")},
        "callback of a mixture": error_of(_told(GaussianMixtureEM(2, data_parallel=True), "fails").fit, X),
        "bounds": clone(vae).fit(X).lower_bounds_.tolist(),
    }


def _told(estimator, does):
    return clone(estimator).set_callbacks(Asked(does))
