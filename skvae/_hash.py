"""One integer hash behind every keyed random number: the same bits in NumPy and torch, on any device."""

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def mix(x):
    """Scramble 64-bit integers: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    Parameters
    ----------
    x : int64 ndarray or int64 Tensor
        Arithmetic wraps around, as it does for int64 in both libraries. Signed shifts copy the sign bit; the masks
        remove the copies, which makes them the unsigned shifts of the original.

    Returns
    -------
    hashed : same type and shape as x
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def combine(key, x):
    """Hash `x` under `key` (both int64, broadcast): `combine(combine(seed, row), column)` keys a cell."""
    return mix((key ^ x * _GOLDEN) + _GOLDEN)
