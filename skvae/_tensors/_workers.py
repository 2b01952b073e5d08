"""Worker threads for blocks of rows: the one place that sets a number of threads, and only that of its own workers.

Operations on a block of rows are short. On several threads each of them would wait for its slowest thread, so threads
pay more when each takes whole blocks. A worker computes on one thread of its own. No other thread computes on fewer or
more than before.
"""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def threads_to_share():
    """Return on how many threads the caller computes, or 1 where it is one of several that share the machine.

    A thread that is not the main one, or a process that another one started, is taken for a worker of joblib.
    """
    is_main = threading.current_thread() is threading.main_thread()
    is_child = multiprocessing.parent_process() is not None or multiprocessing.current_process().name != "MainProcess"
    return torch.get_num_threads() if is_main and not is_child else 1


class Workers:
    """Threads that compute on one thread each; a context, at the end of which they are gone.

    Parameters
    ----------
    n_workers : int
    """

    def __init__(self, n_workers):
        self._pool = ThreadPoolExecutor(n_workers)
        try:
            default = _limit(self._pool, n_workers)
        except RuntimeError:  # the system starts no more threads
            self._pool.shutdown()
            raise
        # The workers' calls have changed what torch gives to threads that start later. A thread that ends puts it back,
        # and not this one, whose own number may be another.
        restorer = threading.Thread(target=torch.set_num_threads, args=(default,))
        restorer.start()
        restorer.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown(cancel_futures=True)

    def map(self, function, items):
        """Apply a function to each item; return the results one by one, in order."""
        return self._pool.map(function, items)


def _limit(pool, n_workers):
    """Start all threads of a pool and limit each to one thread; return the number that they began with."""
    meet = threading.Barrier(n_workers)  # so that no thread takes two turns, or reads what another one has set

    def begin():
        default = torch.get_num_threads()
        meet.wait()
        torch.set_num_threads(1)
        return default

    try:
        begun = [pool.submit(begin) for _ in range(n_workers)]
    except RuntimeError:
        meet.abort()
        raise
    return [future.result() for future in begun][0]
