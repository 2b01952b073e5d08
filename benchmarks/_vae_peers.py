"""One variational autoencoder of binary rows, trained as a plain loop, by skorch, by pythae and by skvae.

The same network everywhere: d - hidden - (k means, k log-variances), k - hidden - d, ReLU; Adam at 1e-3, one draw of z.
Each fit gives two functions of NumPy rows: the posterior's mean and log-variance, and the logits of z.
"""

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RATE = 1e-3


class Encoder(nn.Module):
    def __init__(self, d, hidden, k):
        super().__init__()
        self.first, self.mean, self.log_variance = nn.Linear(d, hidden), nn.Linear(hidden, k), nn.Linear(hidden, k)

    def forward(self, x):
        h = self.first(x).relu()
        return self.mean(h), self.log_variance(h)


class Decoder(nn.Module):
    def __init__(self, d, hidden, k):
        super().__init__()
        self.first, self.last = nn.Linear(k, hidden), nn.Linear(hidden, d)

    def forward(self, z):
        return self.last(self.first(z).relu())


class Net(nn.Module):
    def __init__(self, d, hidden, k):
        super().__init__()
        self.encoder, self.decoder = Encoder(d, hidden, k), Decoder(d, hidden, k)

    def forward(self, x):
        mean, log_variance = self.encoder(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance


def minus_bound(output, x):
    """Mean over rows, as one would write it."""
    logits, mean, log_variance = output
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    return (loss - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)).mean()


class Functions:
    """What is asked of a fit."""

    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder

    @torch.no_grad()
    def bound(self, X, n_draws=4):
        """Mean over the rows of X of the evidence lower bound, nats, by the same noise for every model."""
        mean, log_variance = self.encoder(torch.from_numpy(X))
        noise, x = torch.Generator().manual_seed(0), torch.from_numpy(X)
        total = 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        for _ in range(n_draws):
            z = mean + torch.randn(mean.shape, generator=noise) * (0.5 * log_variance).exp()
            total = total - F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1) / n_draws
        return float(total.mean())


# ------------------------------------------------------------------------------------------------------------- peers
def loop(X, shape, batch_size, epochs):
    """The loop of a tutorial: DataLoader, Adam, one `.item()` an epoch."""
    torch.manual_seed(0)
    net = Net(*shape)
    adam = torch.optim.Adam(net.parameters(), lr=RATE)
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X))
    for _ in range(epochs):
        total = 0.0
        for (x,) in torch.utils.data.DataLoader(rows, batch_size=batch_size, shuffle=True):
            adam.zero_grad()
            loss = minus_bound(net(x), x)
            loss.backward()
            adam.step()
            total += loss.detach()
        total.item()
    return Functions(net.encoder, net.decoder)


def of_skorch(X, shape, batch_size, epochs):
    """skorch's NeuralNet without validation split and without printing."""
    from skorch import NeuralNet

    class Bound(nn.Module):
        def forward(self, output, target):
            return minus_bound(output, target)

    torch.manual_seed(0)
    settings = {"max_epochs": epochs, "batch_size": batch_size, "lr": RATE, "optimizer": torch.optim.Adam}
    sizes = dict(zip(("module__d", "module__hidden", "module__k"), shape, strict=True))
    net = NeuralNet(Net, Bound, **settings, **sizes, train_split=None, iterator_train__shuffle=True, verbose=0)
    net.fit(X, X)
    return Functions(net.module_.encoder, net.module_.decoder)


def of_pythae(X, shape, batch_size, epochs):
    """pythae's VAE and BaseTrainer, with these networks in the place of its own."""
    with _silence():
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        class PythaeEncoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.inner = Encoder(*shape)

            def forward(self, x):
                mean, log_variance = self.inner(x)
                return ModelOutput(embedding=mean, log_covariance=log_variance)

        class PythaeDecoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.inner = Decoder(*shape)

            def forward(self, z):
                return ModelOutput(reconstruction=self.inner(z).sigmoid())

        torch.manual_seed(0)
        config = VAEConfig(input_dim=(shape[0],), latent_dim=shape[2], reconstruction_loss="bce")
        model = VAE(config, PythaeEncoder(), PythaeDecoder())
        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                learning_rate=RATE,
                per_device_train_batch_size=batch_size,
                no_cuda=True,
            )
            data = BaseDataset(torch.from_numpy(X), torch.zeros(len(X)))
            BaseTrainer(model, data, training_config=settings).train()
    return Functions(model.encoder.inner, model.decoder.inner)


@contextlib.contextmanager
def _silence():
    """Without the peer's bars, log lines and warnings, which cannot be turned off."""
    logging.disable(logging.INFO)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


class FunctionsOfSkvae:
    def __init__(self, model):
        self.model = model

    def bound(self, X):
        """Mean over the rows of X of the evidence lower bound, nats."""
        return float(np.mean(self.model.elbo(X)))


def of_skvae(X, shape, batch_size, epochs):
    """VAETransformer, one plain network."""
    from skvae import VAETransformer  # here, so that a process that measures a peer alone does not load it

    _, hidden, k = shape
    model = VAETransformer(
        k,
        hidden_layer_sizes=(hidden,),
        activation="relu",
        likelihood="bernoulli",
        batch_size=batch_size,
        max_iter=epochs,
        learning_rate=RATE,
        early_stopping=False,
        device="cpu",
        random_state=0,
    )
    return FunctionsOfSkvae(model.fit(X))


FITS = {"skvae": of_skvae, "loop": loop, "skorch": of_skorch, "pythae": of_pythae}


def installed():
    """Names of the fits that can run here, with a line about those that cannot."""
    missing = [name for name in ("skorch", "pythae") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)} (pip install {' '.join(missing)})")
    return [name for name in FITS if name not in missing]
