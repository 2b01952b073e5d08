"""Which columns vary by rounding only."""

CONSTANT_VARIANCE = 1e-12  # stands for the variance of a constant column, as in scikit-learn's FactorAnalysis
_ROUNDING = 2.0**-48  # a column whose standard deviation is below this share of its mean is constant


def is_constant(variance, mean):
    """Whether only rounding makes a column vary; of tensors or arrays."""
    return variance <= (_ROUNDING * mean) ** 2
