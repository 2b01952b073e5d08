"""The log-likelihood of one parameter, and the bounds that EM raises one after another."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

# Half of the rows come from N(0, 1), half from N(theta, 1); theta is the only unknown.
rng = np.random.default_rng(1)
x = np.concatenate([rng.normal(0, 1, 60), rng.normal(3, 1, 60)])[:, None]


def log_joint(theta):
    theta = np.atleast_1d(theta)
    return np.log(0.5) + np.stack([np.broadcast_to(norm.logpdf(x), (120, len(theta))), norm.logpdf(x, theta)])


def bound(theta, q):
    return (q * (log_joint(theta) - np.log(q))).sum(axis=0).mean(axis=0)


grid = np.linspace(0, 5.5, 300)
figure, axis = plt.subplots(figsize=(6.6, 3.2))
axis.plot(grid, logsumexp(log_joint(grid), axis=0).mean(axis=0), color="black", lw=2, label="log p(x | theta)")
theta, styles = 0.6, ("-", "--", "-.")
for step, style in enumerate(styles):
    joint = log_joint(theta)
    q = np.exp(joint - logsumexp(joint, axis=0))  # the E-step: the bound touches at theta
    axis.plot(grid, bound(grid, q), color=f"C{step}", ls=style, label=f"bound after E-step {step + 1}")
    axis.plot(theta, bound(theta, q), "o", color=f"C{step}")
    theta = (q[1] * x).sum() / q[1].sum()  # the M-step: its maximum
axis.set(xlabel="theta", ylabel="nats per row", ylim=(-3.2, -1.8))
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
