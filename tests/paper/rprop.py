"""iRprop⁻ of Igel and Hüsken, 2003, entry by entry."""

import numpy as np

import eqxopt

from .common import Pair


def irprop_minus(w, gradients, delta0, eta_minus, eta_plus, delta_min, delta_max):
    delta = np.full_like(w, delta0)
    last = np.zeros_like(w)
    for gradient in gradients:
        w, g = w.copy(), gradient(w)
        for i in np.ndindex(w.shape):
            if last[i] * g[i] > 0:
                delta[i] = min(delta[i] * eta_plus, delta_max)
            elif last[i] * g[i] < 0:
                delta[i] = max(delta[i] * eta_minus, delta_min)
                g[i] = 0.0
            w[i] = w[i] - np.sign(g[i]) * delta[i]
            last[i] = g[i]
        yield w


OPTIONS = (0.1, 0.4, 1.3, 0.03, 0.4)
PAPER = {
    "Rprop": [
        Pair(
            lambda: eqxopt.Rprop(*OPTIONS, delayed=False),
            lambda x, grads: irprop_minus(x, grads, *OPTIONS),
        )
    ]
}
