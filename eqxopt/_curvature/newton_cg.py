"""Newton's method by conjugate gradients."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._abstract.rules import scalar_of
from .._abstract.step import needed_value_fn
from .._abstract.transform import count_of
from .._dtype import widest_real_dtype
from .._fields import (
    Hyperparameter,
    hyperparameter,
    Key,
    key_field,
    OptionalHyperparameter,
)
from .._line_search.abstract import AbstractLineSearch
from .._line_search.backtracking import BacktrackingLineSearch
from .._math import norm, orthonormal_columns, own_copy, size_as_vector, zero_count
from .._number import integer
from .._sharding import cond, gathered, varying
from .._tree import Parameters, replace_fields
from .._types import Count, Leaf, Scalar, Self, Vector
from ._active import Active, Arrays
from ._nystrom import Linear, nystrom, preconditioner, Sketch, truncated_cg
from ._pairs import inner_products, Last, Pair, times
from .abstract import AbstractNewtonOptimizer, as_search, conjugated


def armijo_search() -> AbstractLineSearch:
    """Armijo's search of the paper. Such a factor makes every search begin at 1."""
    return BacktrackingLineSearch(
        slope_rtol=0.1, decrease_factor=0.5, increase_factor=2.0**20
    )


class NewtonCG(AbstractNewtonOptimizer):
    r"""Newton's method for many parameters: solves for each step by conjugate gradients
    with products of the Hessian, which is never formed.

    $$
    \begin{aligned}
    (H_t + \mu I)\, d_t &= g_t, \qquad H_t = \nabla^2 f(\theta_{t-1}) \\
    u_t &= -\eta_t\, \alpha_t\, d_t \\
    P &= \frac{1}{\lambda_r + \mu}\, U (\Lambda + \mu I) U^\top + I - U U^\top, \qquad
        U \Lambda U^\top = H \Omega\, (\Omega^\top H \Omega)^{-1} (H \Omega)^\top
    \end{aligned}
    $$

    $P$ preconditions the conjugate gradients. It knows about the $r$ largest
    eigenvalues $\lambda_1, \dots, \lambda_r$ of the Hessian, from its products with an
    orthonormal $\Omega$ at random, and is computed anew in every $k$-th step. A product
    with $H$ costs about two gradients. Products are taken over all parameters together,
    and a complex parameter counts as its real and its imaginary parts. A parameter
    without gradient is a constant. Random keys come from `seed`.

    `apply` needs `value_fn`, and for the line search also `value`, on the same data as
    the gradients. `opt.value_and_grad` gives what the last search has found, as for
    [`eqxopt.LBFGS`][]. JAX must be able to
    differentiate the loss twice, forward over reverse.

    Conjugate gradients start from 0 and end after $m$ products, or at a residual of at
    most $\epsilon \|g\|$. They also end at a direction $p$ of negative curvature,
    $p^\top (H + \mu I)\, p \le 0$, and $d$ is what they have found before it. If it is
    the first, $p = P^{-1} g$, then $d$ is as if the curvature had the opposite sign.
    So $d$ always goes downhill along $-d$. Eigenvalues of the sketch below the size of
    the most negative one are left out of $\Lambda$, so $P$ is positive definite.

    If the line search finds no lower point, the next step searches along the gradient.
    If it finds none there either, nor in two more searches with ever shorter steps, the
    optimizer is at a minimum to rounding: it makes no update, and no evaluations and no
    products as long as the gradients stay the same. Without a line search, training can
    be differentiated in both modes, and otherwise only in forward mode. The derivative
    of $d$ is that of the exact solution.

    The paper starts from the last $d$ instead of 0, and ends at a residual of 1e-16.

    **Arguments:**

    - `learning_rate`: $\alpha$, in [0, inf). It scales the direction before the search.
        Default `None`, for 1.
    - `damping`: $\mu$, in [0, inf), one for the whole model. Tune it: the paper has
        1e-5 to 1e-1. Default 1e-4.
    - `rank`: $r$, in [0, inf), with 0 for no preconditioner. Default 60. The state has
        $r + 1$ times the size of the model, $r$ without a search. On a mesh with
        explicit axes, every device gathers $U$ in each step.
    - `update_interval`: $k$, in [1, inf). Default 20.
    - `linesearch`: a line search such as [`eqxopt.BacktrackingLineSearch`][], or `None`
        for steps at the learning rate. Default: backtracking from 1 by halves, with
        Armijo's $c = 0.1$.
    - `cg_steps`: $m$, in [1, inf). Default 1000. Keyword only.
    - `cg_rtol`: $\epsilon$, in [0, inf). Default 1e-4. Keyword only.
    - `seed`: an integer or a random key. Default 0. Keyword only.

    **Raises:** a `ValueError` if `apply` is not given `value_fn`, or if there is a line
    search and `apply` is not given `value`.

    **Source:** Rathore et al., [Challenges in Training PINNs: A Loss Landscape
    Perspective](https://arxiv.org/abs/2402.01868), 2024: NNCG; Frangella et al.,
    [Randomized Nyström Preconditioning](https://arxiv.org/abs/2110.02820), 2023;
    Nocedal and Wright, [Numerical
    Optimization](https://doi.org/10.1007/978-0-387-40065-5), 2006, Algorithm 7.1.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp, eqxopt
        >>> f = lambda x: jnp.sum(jnp.cosh(x) * jnp.array([1.0, 1000.0]))
        >>> x = jnp.array([2.0, 1.0])
        >>> opt = eqxopt.NewtonCG().init(x)
        >>> for _ in range(3):
        ...     value, grads = opt.value_and_grad(f, x)
        ...     x, opt = opt.apply(grads, x, value=value, value_fn=f)
        ...     print(f"{opt.value:.3f} after {opt.products} products")
        1030.140 after 3 products
        1001.044 after 2 products
        1001.000 after 2 products

        ```
    """

    uses_value_fn = True
    learns = False

    learning_rate: OptionalHyperparameter = hyperparameter("[0, inf)", default=None)
    damping: Hyperparameter = hyperparameter("[0, inf)", default=1e-4)
    rank: int = integer("[0, inf)", default=60)
    update_interval: int = integer("[1, inf)", default=20)
    linesearch: AbstractLineSearch | None = eqx.field(
        converter=as_search, default_factory=armijo_search
    )
    cg_steps: int = integer("[1, inf)", default=1000, kw_only=True)
    cg_rtol: Hyperparameter = hyperparameter("[0, inf)", default=1e-4, kw_only=True)
    seed: Key = key_field(default=0, kw_only=True)
    eigenvectors: Float[Array, "n r"] | None = eqx.field(default=None, init=False)
    """$U$, over all parameters one after the other."""
    eigenvalues: Float[Array, " r"] | None = eqx.field(default=None, init=False)
    r"""The diagonal of $\Lambda$, 0 before the first step."""
    age: Count = eqx.field(default=None, init=False)
    """The steps since they were computed, 0 if the next step computes them."""
    products: Count = eqx.field(default=None, init=False)
    """The number of products with the Hessian in the last step."""

    def begin(self, parameters: Parameters) -> Self:
        dtype = widest_real_dtype(parameters.arrays)
        size = size_as_vector(parameters.arrays)
        rank = min(self.rank, size)
        return replace_fields(
            self,
            eigenvectors=jnp.zeros((size, rank), dtype),
            eigenvalues=jnp.zeros(rank, dtype),
            age=zero_count(),
            products=zero_count(),
        )

    def init_leaf(self, param: Leaf, last: Last) -> Last:
        return last

    def choose(self, active: Active) -> tuple[Self, Arrays, Active]:
        sketch = _sketch(self, active)
        grad = active.vector(active.grads, sketch.vectors.dtype)
        # Near the largest number that there is, inner products would overflow.
        size = jnp.max(jnp.abs(grad), initial=0)
        unit = grad / jnp.where(size > 0, size, 1)
        no_products = sketch, unit, zero_count()
        if self.linesearch is None:
            sketch, vector, products = _newton(self, active, sketch, unit)
            plain, is_new = unit, jnp.asarray(True)
        else:
            is_new = ~self.has_failed(active)
            sketch, vector, products = cond(
                is_new,
                lambda operands: _newton(self, active, *operands[-2:]),
                lambda operands: no_products,
                (active.grads, active.arrays, active.states, sketch, unit),
            )
            # The search only shortens the step.
            plain = unit / jnp.maximum(1, norm(grad))
        directions = _directions(active, vector)
        units = active.parts(unit)
        # Rates of their own may turn a part of the direction uphill.
        is_downhill = is_new & (inner_products(directions, units) < 0)
        directions = [
            times(jnp.where(is_downhill, newton, gradient), size)
            for newton, gradient in zip(directions, _directions(active, plain))
        ]
        age = jnp.where(is_new, (self.age + 1) % self.update_interval, self.age)
        new = replace_fields(
            self,
            eigenvectors=sketch.vectors,
            eigenvalues=sketch.values,
            age=age,
            products=products,
        )
        return new, directions, active

    def learn(
        self, active: Active, changes: list[Pair], is_known: Bool[Array, ""]
    ) -> tuple[Self, list[Any]]:
        return self, active.states


def _newton(
    optimizer: NewtonCG, active: Active, sketch: Sketch, unit: Vector
) -> tuple[Sketch, Vector, Count]:
    """The preconditioner of this step, an approximate solution for the right-hand side
    `unit`, and the number of products."""
    damping = scalar_of(optimizer, "damping").astype(unit.dtype)
    rtol = scalar_of(optimizer, "cg_rtol").astype(unit.dtype)
    hessian = _hessian(optimizer, active, unit.dtype)
    rank = sketch.values.size
    sketched = zero_count()
    if rank:
        is_due = optimizer.age == 0
        sketch = cond(
            is_due,
            lambda operands: nystrom(hessian, _test_matrix(optimizer, active)),
            lambda operands: operands[-1],
            (unit, active.arrays, sketch),
        )
        sketched = jnp.where(is_due, rank, 0)
    known = Sketch(_masked(active, sketch.vectors), sketch.values)
    precondition = preconditioner(known, damping)
    damped = lambda x: hessian(x) + damping * x
    solve = lambda product, b: truncated_cg(
        product, b, precondition, rtol, optimizer.cg_steps
    )
    # JAX cannot lower a custom solution inside `shard_map` if its constants vary over
    # fewer axes than the rest.
    if varying(unit):
        vector, steps = solve(damped, unit)
    else:
        # So that what is differentiated is the solution, not the loop that finds it.
        vector, steps = jax.lax.custom_linear_solve(
            damped, unit, solve, symmetric=True, has_aux=True
        )
    return sketch, vector, sketched + steps


def _hessian(optimizer: NewtonCG, active: Active, dtype: jnp.dtype) -> Linear:
    """Products with the Hessian of the loss, in which the gradient is linearized
    once."""
    loss_fn = needed_value_fn(optimizer, active.step.value_fn)

    def loss(wide: Arrays) -> Scalar:
        arrays = [x.astype(like.dtype) for x, like in zip(wide, active.arrays)]
        return loss_fn(active.parameters.model(arrays))

    def gradient(wide: Arrays) -> Arrays:
        return [conjugated(grad) for grad in jax.grad(loss)(wide)]

    _, product = jax.linearize(gradient, [own_copy(x) for x in active.arrays])
    return lambda x: active.vector(product(active.parts(x)), dtype)


def _test_matrix(optimizer: NewtonCG, active: Active) -> Float[Array, "n r"]:
    """Orthonormal columns at random, as long as the parameters without gradient are not
    so many that no more are left."""
    assert optimizer.eigenvectors is not None
    like = optimizer.eigenvectors
    key = jax.random.wrap_key_data(optimizer.seed)
    key = jax.random.fold_in(key, count_of(optimizer))
    normal = jax.random.normal(key, like.shape, like.dtype)
    return _masked(active, orthonormal_columns(_masked(active, normal)[None])[0])


def _sketch(optimizer: NewtonCG, active: Active) -> Sketch:
    """The last preconditioner, known to be of these parameters."""
    vectors, values = optimizer.eigenvectors, optimizer.eigenvalues
    assert vectors is not None and values is not None
    size = size_as_vector(active.step.parameters.arrays)
    if vectors.shape[0] != size:
        raise ValueError(
            f"`{type(optimizer).__name__}` has eigenvectors of {len(vectors)} entries, "
            f"but the model has {size} parameters. Call `opt = opt.init(model)` again."
        )
    return Sketch(gathered(vectors), values)


def _directions(active: Active, vector: Vector) -> Arrays:
    return active.directions(active.parts(vector))


def _masked(active: Active, rows: Float[Array, "n r"]) -> Float[Array, "n r"]:
    """The rows of active parameters, with 0 for the others."""
    if all(active.present):
        return rows
    ones = [jnp.ones_like(array) for array in active.arrays]
    # Of a complex parameter both parts.
    ones = [x + 1j * x if jnp.iscomplexobj(x) else x for x in ones]
    return rows * active.vector(ones, rows.dtype)[:, None]
