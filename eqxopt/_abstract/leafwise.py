"""From a rule for one parameter to a transform or an optimizer for a model."""

import abc
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._dtype import compute_dtype, real_dtype, widen
from .._fields.keys import own_keys
from .._sharding import beside
from .._tree import array_leaves, is_nothing, Parameters, replace_fields
from .._types import AnyLeaf, Leaf, Scalar, Self
from .optimizer import AbstractOptimizer, AbstractTransform, count_of
from .rules import gradients, rules, started


M = TypeVar("M")


class AbstractLeafwiseTransform(AbstractTransform):
    """A transform that treats every parameter by the same rule, on its own.

    A subclass is its hyperparameters, `init_leaf` and `update_leaf`. In both methods
    every hyperparameter of `self` is the scalar of this step and this parameter, and
    a mask is the boolean of this parameter; in `update_leaf` a key is that of this step
    and this parameter. A rule without state has `()` for it. Arrays come at least in
    float32; what the rule returns as state is rounded to the dtype that `init_leaf`
    gave it.
    """

    @abc.abstractmethod
    def init_leaf(self, param: Leaf) -> PyTree:
        """The state of one parameter before the first update."""

    @abc.abstractmethod
    def update_leaf(
        self,
        t: Scalar,
        grad: Leaf,
        param: Leaf,
        state: Any,
    ) -> tuple[Leaf, Any]:
        """The update number `t`, from 1, of one parameter, and its next state."""

    def init(self, params: PyTree) -> Self:
        parameters = Parameters(params)
        new = started(self, parameters)
        states = [
            beside(param, rule.init_leaf(param))
            for rule, param in zip(rules(new, parameters), parameters.arrays)
        ]
        # Nothing for every parameter is kept as one nothing: a tree of them, as deep
        # as the model, would have to be taken apart in every step.
        nothing = all(map(is_nothing, states))
        return replace_fields(new, state=() if nothing else parameters.tree(states))

    def update(
        self,
        grads: PyTree,
        params: PyTree,
        *,
        value: Any = None,
        value_fn: Callable[..., Any] | None = None,
    ) -> tuple[PyTree, Self]:
        del value, value_fn
        name = type(self).__name__
        count = count_of(self) + 1
        t = count.astype(jnp.float32)
        parameters = Parameters(params)
        stateless = is_nothing(self.state)
        states = [()] * len(parameters)
        if not stateless:
            states = parameters.align(self.state, f"`{name}`: the optimizer's states")
        grad_leaves = gradients(self, grads, parameters)
        keys = own_keys(self, count_of(self), len(parameters))
        updates: list[Array | None] = [None] * len(parameters)
        for i, rule in enumerate(rules(self, parameters)):
            grad, param, state = grad_leaves[i], parameters.arrays[i], states[i]
            if grad is None:
                continue
            if state is None:
                raise ValueError(
                    f"`{name}`: {parameters.path(i)} was no parameter when `init` saw "
                    "the model. Call `opt = opt.init(model)` again."
                )
            try:
                keyed = replace_fields(rule, **keys[i]) if keys[i] else rule
                updates[i], states[i] = _update_leaf(keyed, t, grad, param, state)
            except _StateMismatch as error:
                raise ValueError(
                    f"`{name}`: the state at {parameters.path(i)} does not fit the "
                    f"parameter of shape {param.shape}: {error}. Call "
                    "`opt = opt.init(model)` again."
                ) from None
        state = () if stateless else parameters.tree(states)
        return parameters.tree(updates), replace_fields(self, count=count, state=state)


class AbstractLeafwiseOptimizer(AbstractLeafwiseTransform, AbstractOptimizer):
    """An optimizer that treats every parameter by the same rule, on its own."""

    def eval_params(self, params: M) -> M:
        return params


class _StateMismatch(Exception):
    pass


@jax.jit
def _update_leaf(
    rule: AbstractLeafwiseTransform,
    t: Scalar,
    grad: Leaf,
    param: Leaf,
    state: PyTree,
) -> tuple[Leaf, PyTree]:
    # Compiled on its own so that parameters of equal shape are traced and lowered
    # once, however many there are.
    _check_state(rule, param, state)
    dtype = compute_dtype(param.dtype)
    grad, param = grad.astype(dtype), param.astype(dtype)
    t = t.astype(real_dtype(dtype))
    # A complex parameter meets real hyperparameters and moments everywhere.
    complex_ = jnp.issubdtype(dtype, jnp.complexfloating)
    mode = "standard" if complex_ else jax.config.jax_numpy_dtype_promotion  # pyright: ignore
    with jax.numpy_dtype_promotion(mode):
        wide = jtu.tree_map(lambda x: widen(x, dtype), state)
        update, new = rule.update_leaf(t, grad, param, wide)
    new = jtu.tree_map(lambda x, old: x.astype(old.dtype), new, state)
    return update.astype(dtype), new


def _check_state(
    rule: AbstractLeafwiseTransform, param: AnyLeaf, state: PyTree
) -> None:
    expected = jax.eval_shape(rule.init_leaf, param)
    if jtu.tree_structure(expected) != jtu.tree_structure(state):
        raise _StateMismatch("it was made with other options")
    for new, old in zip(jtu.tree_leaves(expected), array_leaves(state)):
        if new.shape != old.shape:
            raise _StateMismatch(f"it has shape {old.shape} and not {new.shape}")
