"""What skvae is measured against: popularity, EASE, and the published Mult-VAE as anyone would write it in PyTorch."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits
from torch import nn

EASE_GRID = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000)


class Popularity:
    """Every user gets the items with the most clicks."""

    def fit(self, X):
        self.counts = np.asarray(X.sum(axis=0)).ravel()
        return self

    def decision_function(self, X):
        return np.tile(self.counts, (X.shape[0], 1))


class EASE:
    """Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019: one inverse of the Gram matrix.

    B = I - P diag(1 / diag P) with P = (X'X + l2 I)^-1 minimises |X - XB|^2 + l2 |B|^2 under a zero diagonal.
    """

    def __init__(self, l2=500.0):
        self.l2 = l2

    def fit(self, X, gram=None):
        gram = (X.T @ X).toarray().astype(np.float64) if gram is None else gram.copy()
        gram[np.diag_indices_from(gram)] += self.l2
        B = inverse(gram)
        B /= -np.diag(B).copy()
        np.fill_diagonal(B, 0)
        self.B = B.astype(np.float32)
        return self

    def decision_function(self, X):
        return X @ self.B


def inverse(A):
    """Inverse of a symmetric positive definite matrix, by Cholesky; `A` is overwritten."""
    lower, info = lapack.dpotrf(A, lower=1, overwrite_a=1)
    if info == 0:
        lower, info = lapack.dpotri(lower, lower=1, overwrite_c=1)
    if info:
        raise np.linalg.LinAlgError(f"the Gram matrix is not positive definite (LAPACK info = {info}); raise l2.")
    return np.tril(lower) + np.tril(lower, -1).T


def tuned_ease(split, evaluate, grid=EASE_GRID):
    """EASE with the L2 of `grid` that is best on the validation users, and the NDCG@100 there of each."""
    gram = (split.train.T @ split.train).toarray().astype(np.float64)
    on_val = {}
    for l2 in grid:
        model = EASE(l2).fit(split.train, gram)
        on_val[l2] = evaluate(model.decision_function, split.val_in, split.val_out).ndcg_100
    return EASE(max(on_val, key=on_val.get)), on_val


class MultVAENet(nn.Module):
    """I - hidden - k - hidden - I with tanh, as published: xavier weights, truncated normal(0.001) biases."""

    def __init__(self, n_items, hidden, k):
        super().__init__()
        self.encode_1, self.encode_2 = nn.Linear(n_items, hidden), nn.Linear(hidden, 2 * k)
        self.decode_1, self.decode_2 = nn.Linear(k, hidden), nn.Linear(hidden, n_items)
        for layer in (self.encode_1, self.encode_2, self.decode_1, self.decode_2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.trunc_normal_(layer.bias, std=0.001, a=-0.002, b=0.002)

    def encode(self, x):
        h = F.dropout(F.normalize(x), 0.5, self.training)
        return self.encode_2(torch.tanh(self.encode_1(h))).chunk(2, dim=1)

    def decode(self, z):
        return self.decode_2(torch.tanh(self.decode_1(z)))

    def forward(self, x):
        mu, logvar = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return self.decode(z), mu, logvar


class PlainMultVAE:
    """Mult-VAE of Liang et al. (WWW 2018) with its published training, on dense batches.

    The weight of the KL rises linearly to 0.2, which it reaches after `anneal_fraction` of all steps.
    """

    def __init__(self, hidden=600, k=200, epochs=30, batch_size=100, lr=1e-3, anneal_fraction=0.5, seed=0):
        self.hidden, self.k, self.epochs, self.batch_size = hidden, k, epochs, batch_size
        self.lr, self.anneal_fraction, self.seed = lr, anneal_fraction, seed

    def fit(self, X):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = MultVAENet(X.shape[1], self.hidden, self.k)
            optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
            rng = np.random.default_rng(self.seed)
            total_anneal = 5 * self.anneal_fraction * self.epochs * -(-X.shape[0] // self.batch_size)
            step = 0
            self.net.train()
            for _ in range(self.epochs):
                order = rng.permutation(X.shape[0])
                for start in range(0, len(order), self.batch_size):
                    x = torch.from_numpy(X[order[start : start + self.batch_size]].toarray())
                    beta = min(0.2, step / total_anneal)
                    logits, mu, logvar = self.net(x)
                    nll = -(F.log_softmax(logits, dim=1) * x).sum(dim=1).mean()
                    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1).mean()
                    loss = nll + beta * kl
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    step += 1
        return self

    @torch.no_grad()
    def decision_function(self, X):
        self.net.eval()
        return self.net(torch.from_numpy(X.toarray()))[0].numpy()

    def recommend(self, X, k=100, batch_size=500):
        """Top `k` unseen items by a full sort of all scores, as the published notebook does."""
        ids = []
        for start in range(0, X.shape[0], batch_size):
            rows = X[start : start + batch_size]
            scores = self.decision_function(rows)
            scores[rows.nonzero()] = -np.inf
            ids.append(np.argsort(-scores, axis=1)[:, :k])
        return np.vstack(ids)


def published(epochs=30, batch_size=100, seed=0, **changes):
    """`MultVAERecommender` with the network and the training of `PlainMultVAE`."""
    from skvae import MultVAERecommender  # here, so that a process that measures the port alone does not load it

    setting = {
        "n_components": 200,
        "hidden_layer_sizes": (600,),
        "activation": "tanh",
        "dropout": 0.5,
        "beta": 0.2,
        "annealing": "linear",
        "anneal_fraction": 0.5,
        "weight_decay": 0.0,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "constant",
        "batch_size": batch_size,
        "max_iter": epochs,
        "early_stopping": False,
        "device": "cpu",
        "random_state": seed,
    }
    return MultVAERecommender(**(setting | changes))


class ImplicitALS:
    """`implicit.als.AlternatingLeastSquares` by the setting that is best on ML-1M's validation users."""

    def __init__(self, factors=128, regularization=30.0, alpha=5.0, iterations=15, seed=0):
        from implicit.als import AlternatingLeastSquares

        self.model = AlternatingLeastSquares(
            factors, regularization, alpha, iterations=iterations, random_state=seed, use_gpu=False
        )

    def fit(self, X):
        with threadpool_limits(1, "blas"):  # as it asks for: its threads are its own
            self.model.fit(X.tocsr(), show_progress=False)
        return self

    def decision_function(self, X):
        users = self.model.recalculate_user(np.arange(X.shape[0]), X)
        return users @ self.model.item_factors.T

    def recommend(self, X, k=100):
        with threadpool_limits(1, "blas"):
            return self.model.recommend(np.arange(X.shape[0]), X, N=k, recalculate_user=True)[0]


class CornacVAECF:
    """`cornac.models.VAECF`. Lists are made in batches here: its own interface takes training users, one a call."""

    def __init__(self, hidden=600, k=200, epochs=30, batch_size=100, seed=0):
        from cornac.models import VAECF

        self.model = VAECF(
            k=k,
            autoencoder_structure=[hidden],
            n_epochs=epochs,
            batch_size=batch_size,
            learning_rate=1e-3,
            beta=0.2,
            seed=seed,
        )

    def fit(self, X):
        from cornac.data import Dataset

        X = X.tocoo()
        triplets = np.column_stack([X.row, X.col, X.data])
        ids = {i: i for i in range(X.shape[0])}, {i: i for i in range(X.shape[1])}
        data = Dataset.build(map(tuple, triplets), global_uid_map=ids[0], global_iid_map=ids[1])
        self.model.fit(data)
        return self

    @torch.no_grad()
    def decision_function(self, X):
        mean, _ = self.model.vae.encode(torch.from_numpy(X.toarray()))
        return self.model.vae.decode(mean).numpy()


class IrspackMultVAE:
    """`irspack.MultVAERecommender`, written in JAX, with the network and the training of `PlainMultVAE`."""

    def __init__(self, hidden=600, k=200, epochs=30, batch_size=100, anneal_fraction=0.5):
        from irspack.recommenders.multvae import MultVAERecommender

        self.model_class = MultVAERecommender
        self.setting = {
            "dim_z": k,
            "enc_hidden_dims": hidden,
            "dec_hidden_dims": hidden,
            "anneal_end_epoch": round(anneal_fraction * epochs),
            "minibatch_size": batch_size,
            "train_epochs": epochs,
        }

    def fit(self, X):
        self.model = self.model_class(X, **self.setting).learn()
        return self

    def decision_function(self, X):
        return np.asarray(self.model.get_score_cold_user(X))
