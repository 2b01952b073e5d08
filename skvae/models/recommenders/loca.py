"""Local collaborative autoencoders: kernels of the angle between users, and anchors that cover them.

    d(a, u) = (2 / pi) arccos(cos(e_a, e_u)),   K_h(d) = 3/4 max(0, 1 - (d / h)^2)   (Epanechnikov)

Choi, Jeong, Lee and Lee, *Local Collaborative Autoencoders*, WSDM 2021, sections 3.2 and 3.3. `e` are embeddings of
users. A distance is 0 for one direction, 1 for orthogonal ones, 2 for opposite ones. Users x users is never whole in
memory: it is gone through in blocks.
"""

import heapq
import math

import torch

_CELLS = 2**22  # of a block of distances
_AT_ONCE = 64  # candidates whose coverage is counted together
_NEAREST = 0.01  # of a bandwidth: equal users are a ten-thousandth of a right angle apart in float32
_APART = 1e-3  # distances that rounding does not change places of


def directions(embedding):
    """Scale embeddings (n_users, K) to unit length; one of length zero stays."""
    length = embedding.norm(dim=1, keepdim=True)
    return embedding / torch.where(length > 0, length, 1.0)


def distance(some, others):
    """Angles of unit vectors (n, K) to others (m, K) in right angles, (n, m), in [0, 2]."""
    return (some @ others.T).clamp_(-1, 1).arccos_().mul_(2 / math.pi)


def kernel(d, bandwidth, kind="epanechnikov"):
    """Weights of distances: "epanechnikov", "triangular" or "uniform"; 0 from the bandwidth on."""
    if kind == "uniform":
        return (d < bandwidth).to(d.dtype)
    share = d / bandwidth
    falls = 1 - share if kind == "triangular" else 0.75 * (1 - share.square())
    return falls.clamp_(min=0)


def bandwidth_of_share(d, share, weight=None):
    """Find the bandwidth of an anchor within which a share of the users lie.

    Parameters
    ----------
    d : Tensor of shape (n_users,)
        Distances of the users from the anchor.
    share : float
        In (0, 1].
    weight : float64 ndarray of shape (n_users,) or None, default=None
        Number that each user counts as.

    Returns
    -------
    bandwidth : float
        Midway between the farthest of that share and the next user, 2 where there is none. No user is at the edge,
        where rounding would decide whether a weight is zero.
    """
    d, order = d.double().sort()
    counts = torch.ones_like(d) if weight is None else torch.from_numpy(weight).to(d)[order]
    so_far = counts.cumsum(0)
    last = max(float(d[min(int((so_far < share * so_far[-1]).sum()), len(d) - 1)]), _NEAREST)
    farther = d[d > last + _APART]
    return (last + float(farther[0])) / 2 if len(farther) else 2.0


def neighbours(some, others, bandwidth):
    """Which of the others lie within the bandwidth of each vector, a bool Tensor (n, m)."""
    return some @ others.T > math.cos(0.5 * math.pi * min(bandwidth, 2.0))


def covering_anchors(users, candidates, n_anchors, bandwidth, weight=None):
    """Choose anchors greedily: each is the candidate with the most users in reach whom no earlier anchor covers.

    Once all that can be is covered, the count begins anew. The greedy choice is at least 1 - 1/e of the best coverage
    (Nemhauser, Wolsey and Fisher, 1978). Counts only fall, so most are not taken again ("lazy greedy", Minoux 1978).

    Parameters
    ----------
    users : Tensor of shape (n_users, K)
        Unit vectors.
    candidates : int64 Tensor of shape (n_candidates,)
        Numbers of the users who may be anchors.
    n_anchors : int
    bandwidth : float
    weight : float64 ndarray of shape (n_users,) or None, default=None
        Number that each user counts as.

    Returns
    -------
    anchors : list of int
        Numbers of users, without repeats.
    """
    n_anchors = min(n_anchors, len(candidates))
    counts = torch.ones(len(users), dtype=torch.float64) if weight is None else torch.from_numpy(weight)
    uncovered = counts.to(users.device, copy=True)  # 0 from when a user is covered

    def gains(index):
        size = max(1, _CELLS // len(users))
        parts = [
            neighbours(users[candidates[part]], users, bandwidth).to(uncovered) @ uncovered
            for part in torch.as_tensor(index).split(size)
        ]
        return torch.cat(parts).tolist()

    def heap_of(index):
        heap = [(-gain, i) for gain, i in zip(gains(index), index, strict=True)]
        heapq.heapify(heap)
        return heap

    left = list(range(len(candidates)))
    heap, anchors = heap_of(left), []
    while len(anchors) < n_anchors:
        best = _best_of(heap, gains)
        if best is None:  # everything in reach is covered
            uncovered = counts.to(users.device, copy=True)
            chosen = set(anchors)
            left = [i for i in left if int(candidates[i]) not in chosen]
            heap = heap_of(left)
            best = _best_of(heap, gains)
            if best is None:  # candidates that reach nobody, not even themselves
                anchors += [int(candidates[i]) for i in left[: n_anchors - len(anchors)]]
                break
        anchor = int(candidates[best])
        anchors.append(anchor)
        uncovered[neighbours(users[anchor : anchor + 1], users, bandwidth)[0]] = 0
    return anchors


def _best_of(heap, gains):
    """Take the candidate with the largest gain off the heap, whose entries are bounds; None if all gains are 0."""
    while heap and heap[0][0]:
        stale = [heapq.heappop(heap)[1] for _ in range(min(_AT_ONCE, len(heap)))]
        fresh = sorted((-gain, i) for gain, i in zip(gains(stale), stale, strict=True))
        best, others = fresh[0], fresh[1:]
        for entry in others:
            heapq.heappush(heap, entry)
        if not heap or best <= heap[0]:
            return best[1] if best[0] else None
        heapq.heappush(heap, best)
    return None
