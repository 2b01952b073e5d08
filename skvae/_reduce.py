"""The one seam for distribution: the sums over rows that an engine reads pass here first.

Bounds and counts are sums over rows, and so are statistics and gradients: a fit that is spread over processes is to
differ from one on a single machine in this function alone. With one process, a sum over processes is the sum itself.
"""


def total(*sums):
    """Sum each argument over all processes that share the fit.

    Parameters
    ----------
    *sums : Tensor, ndarray, or anything that adds by ``+``
        Sums over this process's rows.

    Returns
    -------
    totals : tuple of the same
        The same sums over everybody's rows.
    """
    return sums
