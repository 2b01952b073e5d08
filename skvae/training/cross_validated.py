"""A network that is kept only where held-out rows support it: copies trained side by side on folds of the rows.

Every restart is trained as copies in lockstep. A copy is scored on the rows held out from it: by how much does its
log p(x) exceed that of factor analysis of the same training rows? The restart and the step with the highest mean gain,
less one standard error, are chosen. Less two standard errors, the gain must exceed 0.02 nats a row (0.1 after random
weights), or factor analysis is kept. The first copy learns from all rows where they are few, so that the network needs
no refit.
"""

from dataclasses import replace

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import Cells
from skvae.elbo import kl_to_standard_normal
from skvae.models.autoencoders.encoder_decoder import with_heads
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.weights import weighted_mean
from skvae.training import defaults
from skvae.training.ascent import (
    NetworkResult,
    Training,
    ascent_of_members,
    kept_epoch,
    member_result,
    snapshot_of_member,
)
from skvae.training.factor_analysis_start import (
    bound_of_rows,
    evaluate,
    factor_analysis,
    factor_analysis_network,
    posterior,
    random_network,
    summary_of,
    tempered,
    without_noise,
    zero_skips,
)
from skvae.training.members import MemberBatch, Stream
from skvae.training.rows import LinearPath, heads_of_all, linear_heads
from skvae.training.validation import (
    LEAST_GAIN,
    LEAST_GAIN_AFTER_RANDOM,
    TO_KEEP,
    CrossValidatedGain,
    Folds,
    HeldOutRows,
    LinearScore,
    cost_of_rows,
    deal_folds,
    mean_and_error,
)

FALLBACK_NOISE_FLOORS = (0.05, 0.2)  # tried where factor analysis that is kept finds no noise, as shares likewise
INITIAL_NOISE_FLOORS = (1e-3, 0.05)  # of factor analysis where networks begin, as shares of a column's variance


def factor_analysis_result(model, rows, summary, noise, found, beta=1.0, noise_floor=None):
    """The result of a fit that keeps factor analysis: a network whose layers add nothing to it.

    Parameters
    ----------
    model : VAE
    rows : TableRows
    summary : RowSummary
        Of these rows.
    noise : Noise
    found : factor_analysis.Params
    beta : float, default=1.0
        Weight of the KL term.
    noise_floor : float or None, default=None
        Least noise variance that `found` was fitted with.
    """
    tied = model.likelihood.noise == "isotropic"
    params = factor_analysis_network(model, rows, noise, found, floor=0.0)
    bound = weighted_mean(evaluate(fa.log_prob, found, rows.Z), rows.weight)
    return NetworkResult(
        params,
        lower_bounds=np.array([bound]),
        validation_scores=np.empty(0),
        n_iter=1,
        linear_path=LinearPath(found, tempered(found, beta)),
        nonlinear=False,
        without_noise=() if tied else without_noise(found, summary, noise_floor),
    )


def folds_of(rows, held_out, noise, fraction):
    """Which rows each copy of a network learns from and is scored on: given held-out rows, or folds.

    From 10,000 rows on, the copy that would learn from all rows is left out.

    Parameters
    ----------
    rows : TableRows
    held_out : TableRows or None
        Rows that were given to score the only copy; they follow the others.
    noise : Noise
    fraction : float
        Share of the rows that are held out where not every row is held out once.

    Returns
    -------
    folds : Folds
    """
    if held_out is not None:
        weight, first = np.concatenate([rows.weight, np.zeros(len(held_out))]), len(rows)
        return Folds(weight[None], [HeldOutRows.once(np.arange(first, first + len(held_out)))])
    n = rows.n_all
    folds = deal_folds(rows, noise, defaults.n_folds(n, n * rows.x.shape[1], rows.n_observations), fraction)
    return folds if n < defaults.MANY_ROWS else Folds(folds.weight[1:].copy(), folds.held_out[1:])


class CrossValidatedNetwork(Training):
    """Copies of a network on folds of the rows, from one or two restarts.

    The first restart is factor analysis, or random weights where factor analysis does not apply. Beside factor analysis
    there is a second restart: random weights, or factor analysis with more noise. Gradients cannot leave a solution in
    which one factor explains a column completely; the second restart avoids it.

    Parameters
    ----------
    model : VAE
    rows : TableRows
        All rows, those that are only held out among them.
    noise : Noise
    plan : gradient.Plan
    folds : Folds
    from_factor_analysis : bool
        Whether to begin as factor analysis and to keep it unless the network is better.
    fallback_weight : ndarray of shape (n_rows,)
        Weights of the rows for the factor analysis that is kept.
    tied : bool, default=False
        One noise variance for all columns.
    beta : float, default=1.0
        Weight of the KL term at the end.
    n_draws : int, default=16
        Draws of z that estimate log p(x) of a held-out row.
    random_rate : float or None, default=None
        Learning rate of a restart from random weights beside factor analysis; None: more noise instead.
    """

    def __init__(
        self,
        model,
        rows,
        noise,
        plan,
        folds,
        *,
        from_factor_analysis,
        fallback_weight,
        tied=False,
        beta=1.0,
        n_draws=16,
        random_rate=None,
    ):
        self.model, self.rows, self.noise, self.folds, self.tied = model, rows, noise, folds, tied
        self.fallback_weight, self.beta = fallback_weight, beta
        self.linear_beta = beta if model.kl_weights is None else beta * model.kl_weights[0]
        seen = (folds.weight > 0).any(0)
        self.seen = rows if seen.all() else rows.rows(np.flatnonzero(seen))
        weight = folds.weight[:, seen]
        self.weight = weight / (_reduce.count(weight.sum(1, keepdims=True)) / self.seen.n_all)
        Z, self.fa_params = self.seen.Z, None
        summaries = [summary_of(Z, weight) for weight in self.weight]
        self.kept_summaries = summaries if self.seen.mapped else None  # others hold copies of the rows
        if from_factor_analysis:  # the other copies begin at that of the first, which sees most rows
            first, *others = summaries
            self.fa_params = [self._factor_analysis(first)]
            self.fa_params += [self._factor_analysis(rows, init_params=self.fa_params[0]) for rows in others]
        self.restarts = self._restarts(summaries, random_rate is not None)
        first = self.restarts[0][0]
        self.linear_path = None if first is None else LinearPath(first, tempered(first, self.linear_beta))
        self.validation = self._validation([rows.constant for rows in summaries], n_draws)
        if from_factor_analysis and random_rate not in (None, plan.learning_rate):
            n_copies = len(self.weight)
            plan = replace(plan, learning_rate=(plan.learning_rate,) * n_copies + (random_rate,) * n_copies)
        self.ascent = ascent_of_members(model, self._initial_params(), self._stream(), plan, validation=self.validation)

    # ---------------------------------------------------------------------------------------- where the copies begin
    def _factor_analysis(self, rows, **settings):
        """Factor analysis of the `RowSummary` of one copy's rows."""
        return factor_analysis(rows, self.model.n_factors, tied=self.tied, beta=self.linear_beta, **settings)

    def _restarts(self, summaries, random_beside):
        """For each restart and copy, factor analysis with a floor under its noise, or None for random weights."""
        random = [None] * len(self.weight)
        if self.fa_params is None:
            return [random]
        low, high = INITIAL_NOISE_FLOORS
        clipped = [found._replace(psi=found.psi.clamp(min=low)) for found in self.fa_params]
        if random_beside:
            return [clipped, random]
        pairs = zip(summaries, self.fa_params, strict=True)
        return [clipped, [self._factor_analysis(rows, floor=high, init_params=found) for rows, found in pairs]]

    def _initial_params(self):
        """Initial parameters of all members: the copies of the first restart, then those of the second."""
        random = random_network(self.model, self.rows, self.noise)
        if self.fa_params is not None:
            random |= zero_skips(self.model, self.rows)
        random = {name: tensor.to(self.rows.device) for name, tensor in random.items()}
        networks = [
            random if found is None else factor_analysis_network(self.model, self.rows, self.noise, found)
            for restart in self.restarts
            for found in restart
        ]
        return {name: torch.stack([network[name] for network in networks]) for name in networks[0]}

    def _stream(self):
        """The rows that some copy learns from, with the weights of all members."""
        weight = self._placed(self.weight).repeat(len(self.restarts), 1)
        posteriors = None
        if self.fa_params is not None:
            posteriors = [self._tempered(found) for restart in self.restarts for found in restart]
        heads = heads_of_all(posteriors, self.seen, self.model)
        return Stream(self.seen.table(self.linear_path), self.noise, len(weight), weight, heads).among_all()

    def _tempered(self, found):
        """Parameters of the posterior of factor analysis, or None: of the prior."""
        return None if found is None else tempered(found, self.linear_beta)

    # -------------------------------------------------------------------------------------------- the held-out score
    def _validation(self, constant, n_draws):
        """The score of all copies that some rows are held out from, for every restart."""
        self.scored = scored = [c for c, rows in enumerate(self.folds.held_out) if _reduce.count(len(rows.index))]
        self.held_out = held_out = self._held_out(constant, scored)
        batch = self._held_out_batch(scored, held_out)
        members = [restart * len(self.weight) + copy for restart in range(len(self.restarts)) for copy in scored]
        least = [LEAST_GAIN_AFTER_RANDOM if restart[0] is None else LEAST_GAIN for restart in self.restarts]
        squares = self._by_row([_filled_up(self.folds.held_out[c].squares, batch.w.shape[1]) for c in scored])
        linear = None
        if self.fa_params is not None:
            linear = LinearScore.of(self._by_row(self._linear_values(self.fa_params)), batch.w)
        log_base = self.model.likelihood.log_base(batch.x)
        return CrossValidatedGain(self.model, batch, squares, log_base, members, least, linear, n_draws, beta=self.beta)

    def _linear_values(self, fa_params):
        """Value of the held-out rows of each scored copy under its factor analysis, as of `CrossValidatedGain`."""
        values = []
        for copy, rows in zip(self.scored, self.held_out, strict=True):
            value = bound_of_rows(fa_params[copy], rows.Z, self.linear_beta)
            if self.model.free_bits:
                q = evaluate(posterior, tempered(fa_params[copy], self.linear_beta), rows.Z)
                q = with_heads(torch.from_numpy(q), self.model.n_components).to(self.rows.dtype).double()
                kl, w = kl_to_standard_normal(*q.chunk(2, -1)), torch.from_numpy(rows.weight)
                value += self.beta * (self.model.weighted(kl).sum(-1) - cost_of_rows(self.model, kl, w)).numpy()
            values.append(value)
        return values

    def _held_out(self, constant, scored):
        """The rows that score each copy, as many for all: some are repeated with weight zero.

        Nobody can know the spread of a column that is constant for a copy, so it must not decide: it counts as missing.
        """
        size = max(len(self.folds.held_out[copy].index) for copy in scored)
        some_constant = np.any(constant)
        held_out = []
        for copy in scored:
            index, count, _ = self.folds.held_out[copy]
            rows = self.rows.rows(np.resize(index, size))
            rows = rows.in_memory() if rows.mapped else rows
            x, observed = rows.x, rows.observed
            if some_constant:
                observed = (np.ones(x.shape, dtype=bool) if observed is None else observed) & ~constant[copy]
                x = np.where(constant[copy], 0, x)
            weight = _filled_up(count, size)
            held_out.append(replace(rows, x=x, observed=observed, weight=weight))
        return held_out

    def _held_out_batch(self, scored, held_out):
        """The held-out rows of every restart and scored copy."""
        parts = [rows.encoded(self.linear_path) for rows in held_out]
        x, observed, u = (
            None if part[0] is None else self._stacked_for_restarts(part) for part in zip(*parts, strict=True)
        )
        w = self._by_row([rows.weight for rows in held_out])
        row = torch.arange(w.shape[1], device=w.device)[None]
        heads = None
        if self.fa_params is not None:
            pairs = [(restart, pair) for restart in self.restarts for pair in zip(scored, held_out, strict=True)]
            heads = torch.stack(
                [linear_heads(self._tempered(restart[copy]), rows, self.model) for restart, (copy, rows) in pairs]
            )
        return MemberBatch(Cells(x, observed), u, w, row, heads)

    def _by_row(self, arrays):
        """Numbers of the held-out rows of every scored copy, on the device of the rows, for every restart."""
        return self._stacked_for_restarts(map(self._placed, arrays))

    def _placed(self, array):
        return torch.from_numpy(array).to(device=self.rows.device, dtype=self.rows.dtype)

    def _stacked_for_restarts(self, parts):
        """One tensor of the parts of the copies, repeated for every restart."""
        stacked = torch.stack(list(parts))
        return stacked.repeat(len(self.restarts), *[1] * (stacked.dim() - 1))

    # ------------------------------------------------------------------------------------------------ what is kept
    def conclude(self, result):
        """Keep the first copy of the best restart, or factor analysis."""
        restart, is_better = self.validation.best_restart(int(result.best[0]))
        if self.fa_params is not None and not is_better:
            return self._fallback_result()
        # Whichever restart it is, the first one has filled missing cells.
        path, found = self.linear_path, self.restarts[restart][0]
        if path is not None:
            path = path._replace(posterior=None if found is None else tempered(found, self.linear_beta))
        scores = self.validation.scores(restart, len(result.validation_scores))
        return member_result(result, restart * len(self.weight), path, scores)

    def verdict(self, result):
        epoch = kept_epoch(result, self.ascent.plan)
        if self.fa_params is None:
            return epoch
        restart, is_better = self.validation.best_restart(int(result.best[0]))
        kept = epoch if is_better else "kept factor analysis"
        return f"{kept}: {self.validation.in_words(int(result.best[0]), restart)}"

    def _fallback_result(self):
        """Factor analysis of the rows that `fallback_weight` names."""
        rows = self.rows.rows(np.flatnonzero(self.fallback_weight))
        summary = summary_of(rows.Z, self.fallback_weight[self.fallback_weight > 0])
        floor, found = self._fallback_floor(), self.fa_params[0]
        if floor is not None or _reduce.largest(not np.array_equal(self.fallback_weight, self.folds.weight[0])):
            found = self._factor_analysis(summary, floor=floor, init_params=found)
        return factor_analysis_result(self.model, rows, summary, self.noise, found, self.linear_beta, floor)

    def _fallback_floor(self):
        """Least noise variance of the factor analysis that is kept; None: as by itself.

        Where maximum likelihood leaves columns without noise (Heywood cases), held-out rows tell whether more is
        better: some may then be next to impossible.
        """
        summaries = self.kept_summaries or [summary_of(self.seen.Z, weight) for weight in self.weight]
        if self.tied or not len(without_noise(self.fa_params[0], summaries[0])):
            return None
        best, least = None, LEAST_GAIN
        first = slice(len(self.scored))  # all restarts are scored on the same rows
        w, squares = (part[first].double().flatten() for part in (self.validation.batch.w, self.validation.squares))
        for floor in FALLBACK_NOISE_FLOORS:
            other = [
                self._factor_analysis(rows, floor=floor, init_params=found)
                for rows, found in zip(summaries, self.fa_params, strict=True)
            ]
            value = self._by_row(self._linear_values(other))
            mean, error = mean_and_error(self.validation.linear.gain(value)[first].double().flatten(), w, squares)
            if mean - TO_KEEP * error > least:
                best, least = floor, float(mean - TO_KEEP * error)
        return best

    def snapshot(self, params):
        """The first copy of the first restart."""
        return snapshot_of_member(params, 0, self.linear_path)


def _filled_up(values, size):
    """The values, and zeros for rows that only fill up."""
    return np.pad(values, (0, size - len(values)))
