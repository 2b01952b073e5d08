"""Several fits side by side, as members of one ascent: all fits of a search.

`run_together` puts the networks of all fits side by side, lets the gradient engine raise their bounds in the same
steps, and gives each fit its own `FitResult`: to rounding, the one that it would have alone.
"""

import warnings
from dataclasses import replace

import joblib
import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed

from skvae.elbo import FitResult
from skvae.engines import gradient
from skvae.models.autoencoders.encoder_decoder import with_heads
from skvae.training.members import MemberNoise, MemberRows

_STACK_CELLS = 2**19  # members x rows of a batch x columns in one step: more leave the cache, and gain nothing


# ------------------------------------------------------------------------------------------------- any fits, in stacks
def run_all(ascents, n_jobs=None):
    """Run any ascents, those together that are alike.

    Parameters
    ----------
    ascents : list of Ascent
    n_jobs : int or None, default=None
        Number of joblib's workers among which the stacks are spread. The stacks, and so the results, do not depend on
        it.

    Returns
    -------
    results : list of FitResult or None
        None where a fit must be made by itself: it failed, or none of its validations counted.
    """
    ascents = _with_shared_tables(ascents)
    results = [None] * len(ascents)
    stacks = list(_stacks(ascents))
    workers = Parallel(n_jobs=n_jobs if len(stacks) > 1 else 1)
    of_stacks = workers(delayed(_recorded_results)([ascents[place] for place in places]) for places in stacks)
    for places, of_stack in zip(stacks, of_stacks, strict=True):
        for place, (result, record) in zip(places, of_stack, strict=True):
            validation = ascents[place].validation
            if result is not None and validation is not None:
                validation.record, result = record, result if result.best[0] >= 0 else None
            results[place] = result
    return results


def _with_shared_tables(ascents):
    """Copies of the ascents that share one table tensor wherever their rows are equal."""
    tables, shared = {}, []
    for ascent in ascents:
        if not isinstance(ascent.rows, MemberRows):
            shared.append(ascent)
            continue
        (stream,) = ascent.rows.streams
        key = joblib.hash([None if part is None else part.cpu().numpy() for part in stream.table])
        stream = stream._replace(table=tables.setdefault(key, stream.table))
        shared.append(replace(ascent, rows=MemberRows([stream])))
    return shared


def _stacks(ascents):
    """Yield places of ascents that run together: alike, those of one stream side by side, and not too many."""
    kinds = {}
    for place, ascent in enumerate(ascents):
        likeness = _likeness(ascent)
        if likeness is None:
            yield [place]
        else:
            kinds.setdefault(likeness, {}).setdefault(_stream_key(ascent), []).append(place)
    for streams in kinds.values():
        stack, used = [], 0
        for places in streams.values():
            cells = [_cells(ascents[place]) for place in places]
            if stack and used + sum(cells) > _STACK_CELLS:
                yield stack
                stack, used = [], 0
            for place, own in zip(places, cells, strict=True):
                if stack and used + own > _STACK_CELLS:
                    yield stack
                    stack, used = [], 0
                stack, used = [*stack, place], used + own
        yield stack


def _likeness(ascent):
    """What ascents have in common that may run together; None for one that must run alone."""
    model, plan = ascent.model, ascent.plan
    if not isinstance(ascent.rows, MemberRows) or ascent.optimizer_state is not None or model.likeness() is None:
        return None
    (stream,) = ascent.rows.streams
    return (
        model.likeness(),
        tuple(ascent.params),
        tuple(None if part is None else (part.dtype, part.device) for part in (stream.table.x, stream.linear_heads)),
        ascent.rows.n_batches(plan.batch_size),
        ascent.validation is None,
        plan.precision,
        plan.rate_schedule,
        *(plan.max_iter, plan.patience, plan.tol, plan.validate_every, plan.earliest_stop, plan.first_epoch),
    )


def _stream_key(ascent):
    (stream,) = ascent.rows.streams
    return id(stream.table), stream.noise.key


def _cells(ascent):
    """Cells of all members in one step."""
    (stream,) = ascent.rows.streams
    width = max(stream.table.x.shape[1], *(max(tensor.shape[1:]) for tensor in ascent.params.values()))
    return stream.n_members * ascent.plan.batch_size * width


def _recorded_results(ascents):
    """Results of ascents that are alike, each with the record of its validation, which may be a worker's copy."""
    results = _finite_results(ascents)
    return [(result, getattr(ascent.validation, "record", None)) for ascent, result in zip(ascents, results)]


def _finite_results(ascents):
    """Results of ascents that are alike; where they fail, of each half by itself, and None for one that fails alone.

    Members refuse a step that is not finite together, so that those with finite steps must go on without the others.
    """
    for ascent in ascents:
        if ascent.validation is not None:
            ascent.validation.forget()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", gradient.REFUSED, RuntimeWarning)
            return run_stack(ascents)
    except Exception:  # of one of them: those that are left without a result are fitted, and fail, by themselves
        half = len(ascents) // 2
        return [*_finite_results(ascents[:half]), *_finite_results(ascents[half:])] if half else [None]


# ---------------------------------------------------------------------------------------------------------- one stack
def run_stack(ascents):
    """Run ascents that are alike: together, or the only one as it is."""
    return [ascents[0].run()] if len(ascents) == 1 else run_together(ascents)


def run_together(ascents):
    """Run ascents as members of one.

    Parameters
    ----------
    ascents : list of Ascent
        Alike in all but parameters, rows, seed, latent dimensions, beta, learning rate and weight decay; with equal
        numbers of batches.

    Returns
    -------
    results : list of FitResult

    Raises
    ------
    FloatingPointError
        If a bound is not finite in an epoch even at half the learning rate.
    """
    n_latent = max(ascent.model.n_components for ascent in ascents)
    order, rows = _side_by_side(ascents, n_latent)
    ascents = [ascents[place] for place in order]
    ends = np.cumsum([_n_members(ascent) for ascent in ascents]).tolist()
    slices = [slice(start, stop) for start, stop in zip([0, *ends], ends)]  # each ascent's members among all
    widest = next(ascent.model for ascent in ascents if ascent.model.n_components == n_latent)
    params = [ascent.model.widened(ascent.params, n_latent) for ascent in ascents]
    result = gradient.ascend(
        widest,
        {name: torch.cat([each[name] for each in params]) for name in params[0]},
        rows,
        plan=_joint_plan(ascents),
        noise=_joint_noise(ascents, rows, slices, n_latent),
        log_base=np.concatenate([ascent.log_base for ascent in ascents]),
        validate=_joint_validation(ascents, slices),
    )
    own = [_own_result(result, number, *pair) for number, pair in enumerate(zip(ascents, slices, strict=True))]
    return [own[order.index(place)] for place in range(len(ascents))]


def _side_by_side(ascents, n_latent):
    """The ascents in an order in which those of one stream are neighbours, and the rows of all members."""
    places_of = {}
    for place, ascent in enumerate(ascents):
        places_of.setdefault(_stream_key(ascent), []).append(place)
    streams = [_joint_stream([ascents[place] for place in places], n_latent) for places in places_of.values()]
    return [place for places in places_of.values() for place in places], MemberRows(streams)


def _joint_stream(ascents, n_latent):
    """One stream for all members of ascents that read the same rows in the same order."""
    streams = [stream for ascent in ascents for stream in ascent.rows.streams]
    weight = torch.cat([stream.weight.expand(stream.n_members, -1) for stream in streams])
    heads = None
    if streams[0].linear_heads is not None:
        wide = [with_heads(stream.linear_heads, n_latent) for stream in streams]
        heads = torch.cat([part.expand(s.n_members, -1, -1) for part, s in zip(wide, streams, strict=True)])
    return streams[0]._replace(n_members=len(weight), weight=weight, linear_heads=heads)


def _n_members(ascent):
    return len(ascent.plan.fit_of_member)


def _joint_plan(ascents):
    counts = [_n_members(ascent) for ascent in ascents]
    longest = max(ascents, key=lambda ascent: len(ascent.rows)).plan  # its batches are as many as all others'
    plan = replace(longest, fit_of_member=np.repeat(np.arange(len(ascents)), counts))
    for name in ("learning_rate", "weight_decay"):
        values = [getattr(ascent.plan, name) for ascent in ascents]
        if len(set(values)) > 1 or np.ndim(values[0]):
            of_members = [np.broadcast_to(value, count) for value, count in zip(values, counts, strict=True)]
            plan = replace(plan, **{name: np.concatenate(of_members)})
    betas, weight = [ascent.plan.beta for ascent in ascents], ascents[0].rows.streams[0].weight

    def beta(fraction):
        values = np.repeat([float(own(fraction)) for own in betas], counts)
        return torch.from_numpy(values).to(weight.dtype)[:, None].to(weight.device, non_blocking=True)

    return replace(plan, beta=beta)


def _joint_noise(ascents, rows, slices, n_latent):
    """The noise of all members; none for latent dimensions that a smaller model does not have."""
    live, own = None, [ascent.model.n_components for ascent in ascents]
    if min(own) < n_latent:
        live = rows.streams[0].weight.new_zeros(slices[-1].stop, 1, n_latent)
        for members, n in zip(slices, own, strict=True):
            live[members, :, :n] = 1
    streams = [stream.noise for stream in rows.streams]
    return MemberNoise(streams, rows.stream_of_member if len(streams) > 1 else None, live)


def _joint_validation(ascents, slices):
    """Parameters of all members -> the score of each ascent, or None. The host waits for the device once."""
    if ascents[0].validation is None:
        return None

    def validate(params):
        pairs = zip(ascents, slices, strict=True)
        measured = [ascent.validation.measure(_own(params, ascent, own)) for ascent, own in pairs]
        on_host = torch.cat([part.flatten() for part in measured]).cpu().split([part.numel() for part in measured])
        parts = [flat.view(part.shape).numpy() for flat, part in zip(on_host, measured, strict=True)]
        return np.array([ascent.validation.score(part) for ascent, part in zip(ascents, parts, strict=True)])

    return validate


def _own(tensors, ascent, members):
    """The parameters of one ascent among those of all."""
    return ascent.model.narrowed({name: tensor.detach()[members] for name, tensor in tensors.items()})


def _own_result(result, number, ascent, members):
    """The result of one ascent, as if it had run alone: the others may have gone on after it stopped."""
    n_validations, n_iter = int(result.n_validations[number]), result.n_iter
    if 0 < n_validations < len(result.validation_scores):
        n_iter = min(n_iter, n_validations * ascent.plan.validate_every)
    return FitResult(
        _own(result.params, ascent, members),
        lower_bounds=[bounds[members] for bounds in result.lower_bounds[:n_iter]],
        validation_scores=[scores[number] for scores in result.validation_scores[:n_validations]],
        n_iter=n_iter,
        best=result.best[number : number + 1],
        n_validations=result.n_validations[number : number + 1],
    )
