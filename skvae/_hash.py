"""One integer hash behind every keyed random number: the same bits in NumPy and torch, on any device."""

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_ROUNDS = (  # shift, mask that makes it an unsigned shift, factor: 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, none
    (30, 2**34 - 1, -4658895280553007687),
    (27, 2**37 - 1, -7723592293110705685),
    (31, 2**33 - 1, None),
)


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
    for shift, mask, factor in _ROUNDS:
        shifted = x >> shift
        shifted &= mask
        shifted ^= x
        if factor:
            shifted *= factor
        x = shifted
    return x


def combine(key, x):
    """Hash `x` under `key` (both int64, broadcast): `combine(combine(seed, row), column)` keys a cell."""
    return mix((x * _GOLDEN ^ key) + _GOLDEN)
