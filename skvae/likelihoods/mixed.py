"""Several likelihoods side by side."""

import torch

from skvae.likelihoods._base import Likelihood


class Mixed(Likelihood):
    """Several likelihoods side by side, independent given f: one table of real, binary, categorical, count columns.

    Own parameters are named by the part's number: "0.noise".

    Parameters
    ----------
    parts : list of tuples (likelihood, start, stop)
        Which columns each has, in the layout of x; one after the other, from 0, without gaps.

    Raises
    ------
    ValueError
        If the parts leave a gap, overlap or are out of order.
    """

    def __init__(self, parts):
        self.parts, end = list(parts), 0
        for i, (_, start, stop) in enumerate(self.parts):
            if start != end or stop < start:
                raise ValueError(f"Part {i} has the columns {start} to {stop}, but the part before it ends at {end}.")
            end = stop
        self.empty_rows_inform = any(likelihood.empty_rows_inform for likelihood, _, _ in self.parts)
        self.in_float64 = any(likelihood.in_float64 for likelihood, _, _ in self.parts)

    def log_prob(self, x, f, own=None):
        return sum(part.log_prob(x.columns(*at), f_part, mine) for part, at, f_part, mine in self._split(f, own))

    def log_base(self, x):
        return sum(part.log_base(x.columns(start, stop)) for part, start, stop in self.parts)

    def mean(self, f, own=None):
        return torch.cat([part.mean(f_part, mine) for part, _, f_part, mine in self._split(f, own)], -1)

    def sample(self, f, own, noise, row):
        split = enumerate(self._split(f, own))
        drawn = [part.sample(f_part, mine, noise.fold("part", i), row) for i, (part, _, f_part, mine) in split]
        return torch.cat(drawn, -1)

    def init_bias(self, mean, share):
        return torch.cat(
            [part.init_bias(mean[a:b], None if share is None else share[a:b]) for part, a, b in self.parts]
        )

    def init_own(self, mean, variance):
        own = {}
        for i, (part, start, stop) in enumerate(self.parts):
            for name, tensor in part.init_own(mean[start:stop], variance[start:stop]).items():
                own[f"{i}.{name}"] = tensor
        return own

    def own_of(self, i, own):
        """Pick the own parameters of part i, by the names that it knows."""
        prefix = f"{i}."
        return {name.removeprefix(prefix): own[name] for name in own or () if name.startswith(prefix)}

    def _split(self, f, own):
        """Yield each part with its bounds, its columns of f and its own parameters."""
        widths = [stop - start for _, start, stop in self.parts]  # one split: its gradient is one cat
        for i, ((part, *at), f_part) in enumerate(zip(self.parts, f.split(widths, -1), strict=True)):
            yield part, at, f_part, self.own_of(i, own)
