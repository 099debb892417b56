"""NovoGrad as in Algorithm 1 of the paper."""

import numpy as np

import eqxopt

from .common import LAYERS, Pair


def novograd(w, gradients, lam, beta1, beta2, eps, d):
    for t, gradient in enumerate(gradients, 1):
        g = gradient(w)
        sq_norm = np.linalg.norm(g.ravel()) ** 2
        if t == 1:
            v = sq_norm
            # The paper's first step has no epsilon.
            m = g / (np.sqrt(v) + eps) + d * w
        else:
            v = beta2 * v + (1 - beta2) * sq_norm
            m = beta1 * m + (g / (np.sqrt(v) + eps) + d * w)
        w = w - lam * m
        yield w


def pair(eps):
    return Pair(
        lambda: eqxopt.NovoGrad(0.05, 0.8, 0.6, eps, weight_decay=0.1),
        lambda x, grads: novograd(x, grads, 0.05, 0.8, 0.6, eps, 0.1),
        LAYERS,
    )


PAPER = {"NovoGrad": [pair(0.0), pair(1e-2)]}
