"""Three optimizers of one's own, from public names alone: a rule, a transform and a
wrapper. The page "Writing your own optimizer" shows them."""

# --8<-- [start:rule]
import jax.numpy as jnp

import eqxopt
from eqxopt.rules import (
    debias,
    ema,
    Hyperparameter,
    hyperparameter,
    Leaf,
    mask_of,
    Momentum,
    OptionalMask,
    Scalar,
    zeros_like,
)


class MeanGradient(eqxopt.AbstractLeafwiseOptimizer):
    """Steps along the mean gradient, with decoupled weight decay."""

    learning_rate: Hyperparameter = hyperparameter("[0, inf)")
    beta: Hyperparameter = hyperparameter("[0, 1)", default=0.9)
    weight_decay: Hyperparameter = hyperparameter("[0, inf)", default=0.0)
    mask: OptionalMask = mask_of("weight_decay", default=None)

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param))

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: Momentum
    ) -> tuple[Leaf, Momentum]:
        mu = ema(state.mu, grad, self.beta)
        step = debias(mu, self.beta, t) + self.weight_decay * param
        return -self.learning_rate * step, Momentum(mu)


# --8<-- [end:rule]


# --8<-- [start:transform]
class SoftClip(eqxopt.AbstractLeafwiseTransform):
    """Bounds every entry of the gradients smoothly by `bound`."""

    bound: Hyperparameter = hyperparameter("(0, inf)")

    def init_leaf(self, param: Leaf) -> tuple[()]:
        return ()

    def update_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, state: tuple[()]
    ) -> tuple[Leaf, tuple[()]]:
        return grad / (1 + jnp.abs(grad) / self.bound), ()


# --8<-- [end:transform]


# --8<-- [start:wrapper]
class UniformAverage(eqxopt.AbstractWrapper):
    """Keeps the mean of all weights since `init`, to evaluate."""

    optimizer: eqxopt.AbstractOptimizer = eqxopt.rules.inner()

    def init_leaf(self, param: Leaf) -> Momentum:
        return Momentum(zeros_like(param))

    def wrap_leaf(
        self, t: Scalar, grad: Leaf, param: Leaf, update: Leaf, state: Momentum
    ) -> tuple[Leaf, Momentum]:
        mean = state.mu + (param + update - state.mu) / t
        return update, Momentum(mean)

    def eval_leaf(self, param: Leaf, evaluated: Leaf, state: Momentum) -> Leaf:
        return state.mu


# --8<-- [end:wrapper]
