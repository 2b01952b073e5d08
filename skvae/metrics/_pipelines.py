"""The model at the end of pipelines and fitted searches, and the transforms that come before it."""

from sklearn.pipeline import Pipeline


def unwrap(estimator):
    """Find the model in pipelines and fitted searches.

    Returns
    -------
    transforms : list of Pipeline
        What transforms X before the model reads it, in order.
    model : estimator
    """
    transforms = []
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            if len(estimator) > 1:
                transforms.append(estimator[:-1])
            estimator = estimator[-1]
        else:
            return transforms, estimator


def transformed(transforms, X):
    """Apply all transforms to X."""
    for transform in transforms:
        X = transform.transform(X)
    return X
