"""Categorical columns: one of several levels in each."""

from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F

from skvae.likelihoods._base import LEAST_RATE, Likelihood, quantile


class Categorical(Likelihood):
    """One level of each column: its block of one-hot columns ~ Cat(softmax of f's block).

    Parameters
    ----------
    sizes : sequence of int, default=()
        Number of levels of each column, in the order of their blocks.
    """

    name, auto_for, nominal = "categorical", "categories", True
    measure = "probability"

    def __init__(self, sizes=()):
        self.sizes = tuple(int(size) for size in sizes)
        starts = np.cumsum((0, *self.sizes))
        by_size = sorted(range(len(self.sizes)), key=self.sizes.__getitem__)  # stable
        self._groups, order = [], []  # blocks of one size cost one operation, however many
        for size, blocks in groupby(by_size, key=self.sizes.__getitem__):
            blocks = np.array(list(blocks))
            columns = (starts[blocks][:, None] + np.arange(size)).ravel()
            neighbours = len(columns) and columns[-1] - columns[0] == len(columns) - 1
            self._groups.append((size, blocks, slice(columns[0], columns[-1] + 1) if neighbours else columns))
            order.append(columns)
        order = np.concatenate(order) if order else np.arange(0)
        self._back = None if (np.diff(order) == 1).all() else np.argsort(order)

    def for_columns(self, sizes, mean, scale):
        return Categorical(sizes)

    def log_prob(self, x, f, own=None):
        return x.inner(self._by_block(f, lambda block, which: block.log_softmax(-1)))

    def log_base(self, x):
        return torch.zeros_like(x.n_observed())

    def mean(self, f, own=None):
        return self._by_block(f, lambda block, which: block.softmax(-1))

    def sample(self, f, own, noise, row):
        u = noise.uniform(row, len(self.sizes), torch.float64)

        def draw(block, which):
            level = quantile(block.softmax(-1), u[:, which, None])
            return F.one_hot(level[..., 0], block.shape[-1]).to(f.dtype)

        return self._by_block(f, draw)

    def init_bias(self, mean, share):
        return mean.clamp(min=LEAST_RATE).log()

    def _by_block(self, f, change):
        """Change blocks of f, (..., n_blocks, size) with their numbers, group by group, and put them back in order."""
        changed = []
        for size, blocks, columns in self._groups:
            part = f[..., columns] if isinstance(columns, slice) else f.index_select(-1, _placed(columns, f))
            changed.append(change(part.unflatten(-1, (len(blocks), size)), blocks).flatten(-2))
        if len(changed) == 1:
            return changed[0] if self._back is None else changed[0].index_select(-1, _placed(self._back, f))
        changed = torch.cat(changed, -1) if changed else torch.zeros_like(f)
        return changed if self._back is None else changed.index_select(-1, _placed(self._back, f))


def _placed(columns, f):
    return torch.from_numpy(columns).to(f.device, non_blocking=True)  # at every step, so the host must not wait
