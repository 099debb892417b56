"""Shampoo, SOAP, KL-Shampoo and PSGD: what their numbers alone do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqxopt
from eqxopt._math.linalg import inverse_power
from eqxopt._matrices._sides import folded, Sides, unfolded


def gradient(x, step):
    # Random, so that eigenvalues are apart and the bases well determined.
    return np.random.default_rng(step).normal(size=x.shape) + 0.2 * x


def run(opt, params, steps):
    """The parameters after steps along `gradient`, compiled as one program."""
    each = [
        jax.tree.map(lambda x: gradient(np.zeros(x.shape), t), params)
        for t in range(1, steps + 1)
    ]

    def body(carry, noise):
        params, opt = carry
        grads = jax.tree.map(lambda n, x: n + 0.2 * x, noise, params)
        return opt.apply(grads, params), None

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
    return jax.lax.scan(body, (params, opt.init(params)), stacked)[0]


@pytest.mark.parametrize(
    "limit, kept", [(1, [False, False]), (4, [False, True]), (5, [True, True])]
)
def test_long_sides_have_no_factor(limit, kept):
    x = jnp.ones((5, 4))
    soap = eqxopt.SOAP(0.1, max_precond_dim=limit).init(x).state
    kl_shampoo = eqxopt.KLShampoo(0.1, max_precond_dim=limit).init(x).state
    assert [f is not None for f in soap.factors] == kept
    assert [f is not None for f in kl_shampoo.values] == kept


@pytest.mark.parametrize("make", [eqxopt.Shampoo, eqxopt.SOAP, eqxopt.KLShampoo])
def test_factors_take_half_of_their_matrices(make):
    stack = jnp.ones((3, 5, 4))
    state = make(0.1, matrices="stack").init(stack).state
    assert [x.size for x in state.factors] == [3 * 15, 3 * 10]


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("n", range(1, 8))
def test_half_of_a_matrix_is_enough(n, dtype):
    """It has the bits of all entries, and what comes back has them twice."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(2, n, n)).astype(dtype)
    if dtype == np.complex64:
        x += 1j * rng.normal(size=x.shape).astype(np.float32)
    x += np.conj(np.swapaxes(x, 1, 2))
    x[1, 0, 0], x[1, -1, -1], x[0, -1, -1] = -0.0, np.nan, np.inf
    whole = lambda x: unfolded(Sides(x, None)).left
    half = jax.jit(folded)(x)
    assert half.size == n * (n + 1)
    assert np.asarray(whole(half)).tobytes() == x.tobytes()
    noisy = whole(folded(jnp.asarray(rng.normal(size=x.shape))))
    np.testing.assert_array_equal(noisy, jnp.swapaxes(noisy, 1, 2))


@pytest.mark.parametrize("grafting", [True, False])
def test_shampoo_keeps_squares_for_grafting_only(grafting):
    state = eqxopt.Shampoo(0.1, grafting=grafting).init(jnp.ones((3, 4))).state
    assert (state.nu is not None) == grafting


def test_the_first_step_of_soap_only_gathers(x64):
    params = {"w": jnp.asarray(gradient(np.ones((3, 4)), 0)), "b": jnp.ones(3)}
    opt = eqxopt.SOAP(0.1, weight_decay=0.5).init(params)
    new, opt = opt.apply(params, params)
    np.testing.assert_array_equal(new["w"], params["w"])
    np.testing.assert_array_equal(opt.state["w"].nu, 0.0)
    assert np.any(np.asarray(opt.state["w"].factors.left))
    assert not np.array_equal(new["b"], params["b"])


@pytest.mark.parametrize(
    "make, field, steps",
    [(eqxopt.Shampoo, "roots", [5, 10]), (eqxopt.SOAP, "bases", [2, 7, 12])],
)
def test_matrices_are_only_decomposed_when_they_are_due(make, field, steps):
    params = jnp.ones((3, 4))
    opt = make(0.1, precondition_frequency=5).init(params)
    made = []
    for t in range(12):
        grads = jnp.asarray(gradient(np.zeros((3, 4)), t), jnp.float32)
        params, opt = opt.apply(grads, params)
        made.append(np.asarray(getattr(opt.state, field).left))
    changed = [t + 1 for t in range(1, 12) if not np.array_equal(made[t], made[t - 1])]
    assert changed == steps


def test_decompositions_are_a_branch():
    """A step that needs none does not take it."""
    params = jnp.ones((3, 4))
    opt = eqxopt.SOAP(0.1, precondition_frequency=5).init(params)
    text = str(jax.make_jaxpr(lambda o, p: o.apply(p, p))(opt, params))
    assert text.count("cond[") >= 1 and "qr" in text


@pytest.mark.parametrize(
    "make, decompositions",
    [
        (eqxopt.Shampoo, ["@lapack_ssyevd"]),
        (eqxopt.SOAP, ["@lapack_ssyevd", "@lapack_sgeqrf"]),
    ],
)
def test_matrices_of_one_size_are_decomposed_together(make, decompositions):
    """Three sizes are decomposed three times, however many matrices there are."""
    params = {str(i): jnp.ones((3, 4)) for i in range(4)} | {"last": jnp.ones((4, 5))}
    opt = make(0.1).init(params)
    text = jax.jit(lambda o, p: o.apply(p, p)).lower(opt, params).as_text()
    assert all(text.count(name) == 3 for name in decompositions)


def test_matrices_of_one_size_do_not_mix(x64):
    """In one batch, with a stack among them, each trains as if it were alone."""
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3), "b": (4, 3), "stack": (2, 4, 3), "c": (3, 4)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    kinds = lambda path, x: "stack" if x.ndim == 3 else True
    made = lambda: eqxopt.SOAP(0.1, precondition_frequency=2, matrices=kinds)
    got, _ = run(made(), params, 5)
    for name, x in params.items():
        expected, _ = run(made(), x, 5)
        np.testing.assert_allclose(got[name], expected, rtol=1e-9, atol=1e-11)


def test_shampoo_takes_choices_per_parameter_in_one_batch(x64):
    params = {k: jnp.asarray(gradient(np.zeros((3, 4)), i)) for i, k in enumerate("ab")}
    by_path = lambda low, high: lambda path, x: low if "a" in path else high
    opt = eqxopt.Shampoo(
        0.1,
        exponent=by_path(0.2, 0.5),
        eps=by_path(1e-3, 1e-2),
        precondition_frequency=2,
    )
    got, _ = run(opt, params, 3)
    for name, exponent, eps in (("a", 0.2, 1e-3), ("b", 0.5, 1e-2)):
        alone = eqxopt.Shampoo(
            0.1, exponent=exponent, eps=eps, precondition_frequency=2
        )
        expected, _ = run(alone, params[name], 3)
        np.testing.assert_allclose(got[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [eqxopt.Shampoo, eqxopt.SOAP, eqxopt.KLShampoo])
def test_a_stack_is_its_matrices(make, x64):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 3)))
    opt = make(0.1, precondition_frequency=2, matrices="stack").init(stack)
    alone = [make(0.1, precondition_frequency=2).init(x) for x in stack]
    expected = list(stack)
    for t in range(5):
        grads = jnp.asarray(gradient(np.zeros(stack.shape), t))
        stack, opt = opt.apply(grads, stack)
        for i, x in enumerate(expected):
            expected[i], alone[i] = alone[i].apply(grads[i], x)
    np.testing.assert_allclose(stack, jnp.stack(expected), rtol=1e-9, atol=1e-10)


def test_a_stack_of_psgd_is_its_matrices(x64):
    """Each is clipped alone. Only the noise differs, and is left out here."""
    stack = jax.random.normal(jax.random.key(0), (2, 5, 3), float)
    options = {"preconditioner_update_probability": 0.0}
    one = eqxopt.PSGDKron(0.1, **options).init(stack[0])
    many = eqxopt.PSGDKron(0.1, matrices="stack", **options).init(stack)
    scales = jnp.asarray([0.1, 9.0])
    expected = [one.apply(s * g, g)[0] for s, g in zip(scales, stack)]
    got, _ = many.apply(scales[:, None, None] * stack, stack)
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-12, atol=1e-12)
    assert many.state.left.shape == (2, 5, 5)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 3), (3, 0)])
def test_soap_takes_narrow_matrices(shape, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params, _ = run(eqxopt.SOAP(0.1, matrices=True, precondition_frequency=1), x, 4)
    assert params.shape == shape and np.all(np.isfinite(params))


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("grafting", [True, False])
def test_shampoo_takes_narrow_matrices_and_no_gradient(shape, grafting):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    opt = eqxopt.Shampoo(
        0.1, precondition_frequency=1, matrices=True, grafting=grafting
    ).init(x)
    new, opt = opt.apply(0 * x, x)
    np.testing.assert_array_equal(new, x)
    new, opt = opt.apply(x, x)
    assert np.all(np.isfinite(new)) and np.any(new != x) == (x.size > 0)


def test_kl_shampoo_takes_narrow_matrices_and_no_gradient():
    for shape in ((3, 4), (1, 4), (4, 1), (0, 3), (3, 0)):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        opt = eqxopt.KLShampoo(0.1, weight_decay=0.0, b2=0.1, matrices=True).init(x)
        for _ in range(50):
            new, opt = opt.apply(0 * x, x)
            np.testing.assert_array_equal(new, x)
        new, opt = opt.apply(x, x)
        assert np.all(np.isfinite(new)) and np.any(new != x) == (x.size > 0)


def test_updates_stay_float32_while_float64_is_on(x64):
    """Whether both sides, one or none is rotated."""
    x = jnp.ones((3, 4), jnp.float32)
    for limit in (1, 3, 4):
        updates, _ = eqxopt.KLShampoo(0.1, max_precond_dim=limit).init(x).update(x, x)
        assert updates.dtype == jnp.float32


def test_shampoo_makes_one_gradient_orthogonal(x64):
    """With p = 1/4 and nothing else, the first direction has singular values 1."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    opt = eqxopt.Shampoo(1.0, precondition_frequency=1, grafting=False).init(x)
    updates, _ = opt.update(x, x)
    np.testing.assert_allclose(np.linalg.svd(updates)[1], 1, rtol=1e-6)


def test_kl_shampoo_whitens(x64):
    """From gradients of any covariance it makes updates of covariance one."""
    rng = np.random.default_rng(0)
    left, right = np.diag([1.0, 2.0, 4.0]), np.diag([0.5, 1.0])
    grads = jnp.asarray(left @ rng.normal(size=(3000, 3, 2)) @ right)
    opt = eqxopt.KLShampoo(1.0, b1=0.0, b2=0.99, weight_decay=0.0)
    x = jnp.zeros((3, 2))

    def body(opt, grad):
        updates, opt = opt.update(grad, x)
        return opt, updates

    _, updates = jax.lax.scan(body, opt.init(x), grads)
    flat = np.asarray(updates[500:]).reshape(-1, 6)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(6), atol=0.15)


def test_psgd_whitens(x64):
    """Gradients of any scale and correlation become updates of size 1."""
    mix = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))

    def body(opt, key):
        grad = 0.1 * mix @ jax.random.normal(key, (4, 3))
        updates, opt = opt.update(grad, jnp.zeros((4, 3)))
        return opt, updates

    opt = eqxopt.PSGDKron(1.0, 0.0, preconditioner_update_probability=1.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    _, updates = jax.lax.scan(body, opt.init(jnp.zeros((4, 3))), keys)
    last = np.asarray(updates[2000:])
    covariance = np.einsum("kij,klj->il", last, last) / (3 * len(last))
    np.testing.assert_allclose(np.mean(last**2), 1.0, rtol=0.15)
    np.testing.assert_allclose(covariance, np.eye(4), atol=0.25)


def test_a_population_of_soap(x64):
    """Mapped over the rates, and over the count: then every branch is computed."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))}

    def final(rate):
        return run(eqxopt.SOAP(rate, precondition_frequency=2), params, 5)

    rates = jnp.asarray([0.1, 0.2])
    models, opts = jax.vmap(final)(rates)
    models, _ = jax.vmap(lambda o, m: o.apply(m, m))(opts, models)
    for i, rate in enumerate(rates):
        model, opt = final(rate)
        model, _ = opt.apply(model, model)
        np.testing.assert_allclose(models["w"][i], model["w"], rtol=1e-10)


@pytest.mark.parametrize(
    "make, names",
    [
        (eqxopt.SOAP, {}),
        (eqxopt.KLShampoo, {"init_factor": 0.3}),
    ],
)
def test_slopes_while_the_bases_stay(make, names, x64):
    """They are those of finite differences. A basis has no slope of its own."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    names = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.8, "eps": 0.1} | names

    @jax.jit
    def loss(values):
        opt = make(0.1, weight_decay=0.1).replace(**values)
        return jnp.sum(jnp.cos(run(opt, x, 5)[0]))

    slopes = jax.jit(jax.grad(loss))(names)
    for name, value in names.items():
        up, down = (loss(names | {name: value + h}) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slopes[name], (up - down) / 2e-6, rtol=1e-5)


class TestInversePower:
    @pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
    @pytest.mark.parametrize("kind", ["apart", "equal", "close"])
    def test_derivatives(self, exponent, kind, x64):
        """They are those of finite differences, even where eigenvalues meet."""
        spread = {"apart": [0.5, 1, 3], "equal": [1, 1, 2], "close": [1, 1 + 1e-9, 2]}
        rng = np.random.default_rng(0)
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        x = jnp.asarray(q @ np.diag(spread[kind]) @ q.T)[None]
        shift = rng.normal(size=(1, 3, 3))
        direction = jnp.asarray(shift + shift.swapaxes(1, 2))

        def power(s):
            return inverse_power(x + s * direction, 0.1 + s, exponent + 0.5 * s)

        zero, h = jnp.zeros(()), 1e-5
        _, slope = jax.jvp(power, (zero,), (jnp.ones(()),))
        np.testing.assert_allclose(
            slope, (power(zero + h) - power(zero - h)) / (2 * h), rtol=1e-6, atol=1e-8
        )
        backward = jax.jacrev(power)(zero)
        np.testing.assert_allclose(backward, slope, rtol=1e-10, atol=1e-12)

    def test_complex(self, x64):
        rng = np.random.default_rng(0)
        g = rng.normal(size=(2, 3, 5)) + 1j * rng.normal(size=(2, 3, 5))
        x = jnp.asarray(g @ g.conj().swapaxes(1, 2))
        eps, exponent = jnp.asarray(1e-9), jnp.asarray(0.5)
        root = inverse_power(x, eps, exponent)
        np.testing.assert_allclose(
            root @ x @ root, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-8
        )
        slope = jax.grad(lambda e: jnp.sum(jnp.abs(inverse_power(x, e, exponent))))(eps)
        assert np.all(np.isfinite(slope))

    def test_of_zero_in_float32(self):
        x, eps = jnp.zeros((1, 3, 3)), jnp.asarray(1e-12)
        root = inverse_power(x, eps, jnp.asarray(0.25))
        np.testing.assert_allclose(root[0], 1e3 * np.eye(3), rtol=1e-5)


@pytest.mark.parametrize("make", [eqxopt.Shampoo, eqxopt.SOAP, eqxopt.KLShampoo])
@pytest.mark.parametrize("field", ["precondition_frequency", "max_precond_dim"])
def test_options(make, field):
    match = f"`{make.__name__}.*`{field}` must be an integer"
    with pytest.raises(ValueError, match=match):
        make(0.1, **{field: 0})


def test_mistakes_with_psgd():
    with pytest.raises(
        ValueError, match=r"`PSGDKron.matrices`, for \['b'\], has shape"
    ):
        eqxopt.PSGDKron(0.1, matrices=True).init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="`max_size_triangular` must be an integer"):
        eqxopt.PSGDKron(0.1, max_size_triangular=0)
