"""Tells whether a column is constant up to rounding."""

CONSTANT_VARIANCE = 1e-12  # stands for the variance of a constant column, as in scikit-learn's FactorAnalysis
CHANGED = 1e-4  # by how much a cell of a constant column differs where that costs thousands of nats
_ROUNDING = 2.0**-48  # a column whose standard deviation is below this share of its mean is constant


def is_constant(variance, mean):
    """Whether a column varies by rounding only; for tensors or arrays of variances and means."""
    return variance <= (_ROUNDING * mean) ** 2
