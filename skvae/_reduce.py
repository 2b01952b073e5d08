"""The seam for distribution: what a fit must know of the rows of other processes passes here.

One fit may be shared by several processes, each of which has rows of its own (`data_parallel=True`). The processes are
those of `torch.distributed`, started by torchrun or whatever else calls `init_process_group`; the sums travel in a
group of our own, so that they cannot meet the collectives of the user's program. Outside of a shared fit every function
here returns what it was given.

All processes must reach the same calls in the same order. Before each, they tell each other whether they are still
well: an error of one process is then raised on all.
"""

import contextlib
import functools
import operator
import os
import traceback
from contextvars import ContextVar
from zlib import crc32

import joblib
import numpy as np
import torch
import torch.distributed as dist

_WELL, _DONE, _FAILED = range(3)
_KINDS = {kind.__name__: kind for kind in (ValueError, TypeError, FloatingPointError)}  # that others raise, too
_fit = ContextVar("the processes that share the fit", default=None)
_rows = ContextVar("the processes whose rows are summed", default=None)  # those of the fit, or None: see `alone`
_by_itself = ContextVar("whether this process shares nothing for now", default=False)
_own_groups = {}  # the user's default group -> ours


class Processes:
    """The processes that share a fit; this one is number `rank` of `size`."""

    def __init__(self):
        world = dist.group.WORLD
        if world not in _own_groups:
            _own_groups.clear()  # those of a group that was destroyed
            _own_groups[world] = dist.new_group(backend="gloo", timeout=_timeout_of(world))
        self.group, self.rank, self.size = _own_groups[world], dist.get_rank(), dist.get_world_size()

    def meet(self, state, tag=0):
        """Tell the others this process's state and wait for theirs; an error if one failed, or is somewhere else.

        Returns
        -------
        alike : bool
            Whether all gave the same tag.
        """
        told = torch.tensor([state, tag])
        heard = [torch.empty_like(told) for _ in range(self.size)]
        self._together(dist.all_gather, heard, told)
        states = [int(each[0]) for each in heard]
        if state != _FAILED and _FAILED in states:
            self._raise_the_first(self.objects(None))
        if state != _FAILED and len(set(states)) > 1:
            done, others = (
                [rank for rank, each in enumerate(states) if (each == _DONE) == ends] for ends in (True, False)
            )
            raise LostProcessError(
                f"Process {done} of a shared fit has finished a step of it, but process {others} has not. All must "
                "call the same methods in the same order, of estimators that are all fitted or all not."
            )
        return len({int(each[1]) for each in heard}) == 1

    def objects(self, own):
        """What each process gives, in their order."""
        heard = [None] * self.size
        self._together(dist.all_gather_object, heard, own)
        return heard

    def objects_at_first(self, own):
        """What each process gives, in their order, for the first process; a list of None for the others."""
        heard = [None] * self.size
        self._together(dist.gather_object, own, heard if self.rank == 0 else None)
        return heard

    def _together(self, collective, *arguments, **settings):
        try:
            collective(*arguments, group=self.group, **settings)
        except (RuntimeError, ValueError) as error:  # the second: a fit inside this one has left the group
            raise LostProcessError(
                f"Process {self.rank} of {self.size} that share this fit has lost another one, which ended or does not "
                f"answer: {error}"
            ) from error

    def fail(self, error):
        """Tell the others of an error of this process."""
        self.meet(_FAILED)
        kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), None)
        self.objects((kind, type(error).__name__, str(error)))
        error.add_note(f"It was raised in process {self.rank} of {self.size} that share this fit.")

    def leave(self, error):
        """Close the connections, so that nobody waits for this process; the next shared fit makes new ones.

        They are open while anything knows the group, as do the frames of torch's functions that the error went through.
        """
        _own_groups.clear()
        group, self.group = self.group, None
        if group is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                dist.destroy_process_group(group)
        for each in (error, error.__cause__):
            traceback.clear_frames(getattr(each, "__traceback__", None))

    def sums(self, tensors):
        """Add up tensors over the processes, those of one dtype in one message; None stays None.

        Returns
        -------
        sums : list of Tensor or None
            Where the tensors lie, which are left as they are.
        """
        found = list(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in found if tensor is not None):
            places = [place for place, tensor in enumerate(found) if tensor is not None and tensor.dtype == dtype]
            flat = torch.cat([found[place].detach().reshape(-1) for place in places])
            total = flat.cpu()
            self._together(dist.all_reduce, total)
            parts = total.to(flat.device).split([found[place].numel() for place in places])
            for place, part in zip(places, parts, strict=True):
                found[place] = part.view(found[place].shape)
        return found

    # Messages of an algorithm's own, also in a block that sums nothing. All have the same shapes for them.
    def sums_in_step(self, *tensors):
        """Add up tensors over the processes, as `sums` does, once all are well."""
        self.meet(_WELL)
        return self.sums(tensors)

    def largest_in_step(self, tensor):
        """Put the largest of all processes' values into each cell of a contiguous tensor on the CPU."""
        self.meet(_WELL)
        self._together(dist.all_reduce, tensor, dist.ReduceOp.MAX)

    def broadcast(self, tensor, rank):
        """Overwrite a contiguous tensor on the CPU by that of one process."""
        self.meet(_WELL)
        self._together(dist.broadcast, tensor, src=rank)

    def exchange(self, parts):
        """Send an array of bytes to each process, in their order; return what each has sent to this one."""
        sent = [torch.from_numpy(part) for part in parts]
        self.meet(_WELL)
        sizes = torch.tensor([len(part) for part in sent])
        coming = torch.empty_like(sizes)
        self._together(dist.all_to_all_single, coming, sizes)
        received = torch.empty(int(coming.sum()), dtype=torch.uint8)
        self._together(dist.all_to_all_single, received, torch.cat(sent), coming.tolist(), sizes.tolist())
        return [part.numpy() for part in received.split(coming.tolist())]

    def _raise_the_first(self, errors):
        rank, (kind, name, text) = next((rank, error) for rank, error in enumerate(errors) if error is not None)
        raise _OfAnother(_KINDS.get(kind, RuntimeError), f"{text} (Raised in process {rank} of {self.size}: {name}.)")


def _timeout_of(group):
    """What the user gave to `init_process_group`, for which there is no public name; None (30 minutes) if not found."""
    try:
        return group._get_backend(group._device_types[0]).options._timeout
    except (AttributeError, IndexError, RuntimeError):
        return None


class LostProcessError(RuntimeError):
    """Raised where a process of a shared fit does not answer, or has left it."""


class _OfAnother(Exception):
    """Carries an error of another process to the end of the shared fit, where it is raised as what it is."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.error = kind(text)


def there_are_others():
    """Whether there are processes that could share a fit."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextlib.contextmanager
def shared(data_parallel=True):
    """Share a block with the other processes; with the present one alone, if they are not wanted or there are none.

    An error on the way is raised on all processes.
    """
    wanted = data_parallel and not _by_itself.get()
    if wanted:
        _refuse_jobs()
    if not wanted or not there_are_others():
        with _set(_fit, None), _set(_rows, None):
            yield
        return
    processes = Processes()
    try:
        with _set(_fit, processes), _set(_rows, processes):
            yield
        processes.meet(_DONE)
    except _OfAnother as error:
        raise error.error from None
    except LostProcessError as error:
        processes.leave(error)
        raise
    except Exception as error:
        try:
            processes.fail(error)
        except LostProcessError as lost:  # the others are lost too, but this error says more
            processes.leave(lost)
        raise
    except BaseException as error:  # such as Ctrl-C, perhaps in the middle of a sum
        processes.leave(error)
        raise
    finally:
        processes.group = None  # what outlives the fit, such as a traceback, must not keep the connections open


def _refuse_jobs():
    """Complain of a fit in a job of joblib's beside the processes of torch.distributed.

    Threads of one process would take each other's messages for their own. Processes have no group to share the fit in.
    """
    job = joblib.parallel.get_active_backend()[0].nesting_level
    if job and (there_are_others() or os.environ.get("WORLD_SIZE", "1") != "1"):
        raise ValueError(
            "n_jobs starts threads or processes of its own, which cannot share a fit with others; use n_jobs=None with "
            "data_parallel=True."
        )


def alone():
    """A block that sums nothing: in it all processes compute the same, of the same numbers."""
    return _set(_rows, None)


def together():
    """A block in `alone` that sums over all processes again."""
    return _set(_rows, _fit.get())


@contextlib.contextmanager
def by_itself():
    """A block that this process runs by itself: it shares nothing, nor does what it calls, whatever they ask for."""
    with _set(_fit, None), _set(_rows, None), _set(_by_itself, True):
        yield


def company():
    """The processes that share the fit, also in a block that sums nothing; None without others."""
    return _fit.get()


@contextlib.contextmanager
def _set(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def is_shared():
    """Whether other processes have rows that count."""
    return _rows.get() is not None


def is_in_company():
    """Whether other processes share the fit, also in a block that sums nothing."""
    return _fit.get() is not None


def is_first():
    """Whether this process is the one that prints, and whose callbacks are asked."""
    return _fit.get() is None or _fit.get().rank == 0


def total(sums):
    """Sum each field over all processes that share the fit.

    Parameters
    ----------
    sums : tuple, NamedTuple or None
        Sums over this process's rows: Tensors, arrays, numbers, or anything that adds by ``+``. None: it has no rows.

    Returns
    -------
    totals : of the same type
        The same sums over everybody's rows, the same to the last digit for everybody.
    """
    processes = _rows.get()
    if processes is None:
        return sums
    tensors = [] if sums is None else [_as_tensor(each) for each in sums]
    shapes = str([None if each is None else (each.dtype, each.shape) for each in tensors])
    if processes.meet(_WELL, crc32(shapes.encode()) if sums is not None else -1 - processes.rank):
        tensors = processes.sums(tensors)
        odd = [place for place, tensor in enumerate(tensors) if tensor is None]
        found = [None if tensor is None else _placed_like(tensor, own) for tensor, own in zip(tensors, sums)]
        for place, each in zip(odd, _added(processes.objects([sums[place] for place in odd]) if odd else [])):
            found[place] = each
        return _made_like(sums, found)
    added = _added([each for each in processes.objects(_on_cpu(sums)) if each is not None])
    return added if sums is None else _made_like(added, map(_placed_like, added, sums))


def summed(tensor):
    """Sum a tensor over all processes; its gradient is the sum of theirs. To be called by all of them alike."""
    processes = _rows.get()
    return tensor if processes is None else _Summed.apply(tensor, processes)


class _Summed(torch.autograd.Function):
    """The sum over processes, forward and back."""

    @staticmethod
    def forward(ctx, tensor, processes):
        ctx.processes = processes
        return processes.sums_in_step(tensor)[0]

    @staticmethod
    def backward(ctx, of_sum):
        return ctx.processes.sums_in_step(of_sum)[0], None  # torch may ask for it in another thread


def _added(parts):
    """Add lists, tuples or NamedTuples field by field."""
    return functools.reduce(lambda one, other: _made_like(one, map(operator.add, one, other)), parts) if parts else []


def count(n):
    """Sum one number over all processes."""
    return total((n,))[0]


def largest(value):
    """The largest value of all processes, also of Booleans."""
    return max(gathered(value))


def agree(**facts):
    """Refuse a fit whose processes differ in something that they must have in common, named by keyword.

    Raises
    ------
    ValueError
        It names the processes, the fact and both values.
    """
    processes = _rows.get()
    if processes is None:
        return
    heard = gathered(facts)
    for rank, others in enumerate(heard):
        for name, value in others.items():
            if value != heard[0][name]:
                raise ValueError(
                    f"The processes that share a fit must agree in {name}, but process 0 has {heard[0][name]} and "
                    f"process {rank} has {value}."
                )


def gathered(own):
    """What each process gives, in their order; a list of one where the fit is not shared."""
    processes = _well()
    return [own] if processes is None else processes.objects(own)


def _well():
    """The processes whose rows are summed, once all are well; None where the fit is not shared."""
    processes = _rows.get()
    if processes is not None:
        processes.meet(_WELL)
    return processes


def place(n):
    """Number of the first of this process's n rows among those of all processes, and the number of all."""
    if not is_shared():
        return 0, n
    counts = gathered(n)
    return sum(counts[: _rows.get().rank]), sum(counts)


def places_of_least(values, n):
    """Places of those of this process's values that are among the n least of all processes', in any order."""
    most = min(n, len(values))
    own = np.argpartition(values, most - 1)[:most] if most else np.empty(0, dtype=np.int64)
    if not is_shared():
        return own
    kept = gathered(values[own])
    rank = np.repeat(np.arange(len(kept)), [len(part) for part in kept])
    least = np.argsort(np.concatenate(kept), kind="stable")[:n]
    chosen = np.zeros(len(rank), dtype=bool)
    chosen[least] = True
    return own[chosen[rank == _rows.get().rank]]


def of_first(own):
    """What the first process gives, also in a block that sums nothing."""
    return gathered_from_all(own if is_first() else None)[0]


def gathered_from_all(own):
    """What each process gives, in their order, also in a block that sums nothing."""
    with together():
        return gathered(own)


def gathered_at_first(own):
    """What each process gives, in their order, where the first process alone needs it; the others get None for each.

    A list of one where the fit is not shared, or its processes compute the same.
    """
    processes = _well()
    return [own] if processes is None else processes.objects_at_first(own)


def own_of(parts):
    """Pick the part of this process from what `gathered` or `gathered_at_first` has returned to the first one."""
    return parts[0 if _rows.get() is None else _rows.get().rank]


def _as_tensor(value):
    """A tensor on the CPU of what adds like one; None of other things."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray | np.number | int | float):
        return torch.from_numpy(np.array(value))
    return None


def _placed_like(value, own):
    if isinstance(own, torch.Tensor):
        return torch.as_tensor(value).to(own.device)
    if isinstance(own, np.ndarray):
        return np.asarray(value)
    return type(own)(value.item()) if isinstance(value, torch.Tensor) else value


def _on_cpu(sums):
    if sums is None:
        return None
    return _made_like(sums, [each.cpu() if isinstance(each, torch.Tensor) else each for each in sums])


def _made_like(sums, fields):
    return sums._make(fields) if hasattr(sums, "_make") else tuple(fields)
