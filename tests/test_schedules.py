"""Schedules: the values of optax and of the papers, and live numbers."""

import inspect
import pathlib

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqxopt
from eqxopt import schedules


CYCLES = [
    dict(init_value=0.1, peak_value=1.0, warmup_steps=10, decay_steps=40),
    dict(init_value=0.0, peak_value=0.5, warmup_steps=0, decay_steps=80, end_value=0.2),
    dict(init_value=0.2, peak_value=0.3, warmup_steps=5, decay_steps=60, exponent=2.0),
]


def inverse_square_root(step):
    return jnp.where(step < 20, 0.1 + 0.7 * step / 20, 0.8 * jnp.sqrt(20 / step))


def inverse_square_root_of_timescale(step):
    # The curve is shifted so that it meets the warm-up.
    return jnp.where(step < 20, 0.8 * step / 20, 0.8 / jnp.sqrt((step + 30) / 50))


def warmup_stable_decay(shape):
    def schedule(step):
        down = 0.1 + 0.9 * shape(jnp.clip((step - 110) / 60, 0, 1))
        return jnp.where(step < 20, 0.2 + 0.8 * step / 20, down)

    return schedule


# By name, our schedule and a reference: optax's schedule or the paper's formula.
PAIRS = {
    "Constant": (lambda: schedules.Constant(0.3), lambda: optax.constant_schedule(0.3)),
    "Custom": (
        lambda: schedules.Custom(lambda step: 0.1 / (1 + jnp.asarray(step, float))),
        lambda: lambda step: 0.1 / (1 + step),
    ),
    "Linear": (
        lambda: schedules.Linear(1.0, 0.1, 50, 20),
        lambda: optax.linear_schedule(1.0, 0.1, 50, 20),
    ),
    "Polynomial": (
        lambda: schedules.Polynomial(1.0, 0.1, 2.5, 100, 20),
        lambda: optax.polynomial_schedule(1.0, 0.1, 2.5, 100, 20),
    ),
    "Polynomial, root": (
        lambda: schedules.Polynomial(0.1, 1.0, 0.5, 150),
        lambda: optax.polynomial_schedule(0.1, 1.0, 0.5, 150),
    ),
    "ExponentialDecay": (
        lambda: schedules.ExponentialDecay(0.8, 30, 0.7, 20),
        lambda: optax.exponential_decay(0.8, 30, 0.7, 20),
    ),
    "ExponentialDecay, staircase": (
        lambda: schedules.ExponentialDecay(0.8, 30, 0.7, 10, True, 0.2),
        lambda: optax.exponential_decay(0.8, 30, 0.7, 10, True, 0.2),
    ),
    "ExponentialDecay, growing": (
        lambda: schedules.ExponentialDecay(1e-3, 15, 2.0, end_value=1.0),
        lambda: optax.exponential_decay(1e-3, 15, 2.0, end_value=1.0),
    ),
    "CosineDecay": (
        lambda: schedules.CosineDecay(0.5, 150, 0.1, 1.5),
        lambda: optax.cosine_decay_schedule(0.5, 150, 0.1, 1.5),
    ),
    "WarmupConstant": (
        lambda: schedules.WarmupConstant(0.1, 1.0, 40),
        lambda: optax.warmup_constant_schedule(0.1, 1.0, 40),
    ),
    "WarmupExponentialDecay": (
        lambda: schedules.WarmupExponentialDecay(
            0.1, 1.0, 20, 30, 0.7, 25, end_value=0.1
        ),
        lambda: optax.warmup_exponential_decay_schedule(
            0.1, 1.0, 20, 30, 0.7, 25, end_value=0.1
        ),
    ),
    "WarmupExponentialDecay, staircase": (
        lambda: schedules.WarmupExponentialDecay(0.1, 1.0, 20, 30, 0.7, 0, True),
        lambda: optax.warmup_exponential_decay_schedule(0.1, 1.0, 20, 30, 0.7, 0, True),
    ),
    "WarmupCosineDecay": (
        lambda: schedules.WarmupCosineDecay(0.1, 1.0, 20, 150, 0.05, 2.0),
        lambda: optax.warmup_cosine_decay_schedule(0.1, 1.0, 20, 150, 0.05, 2.0),
    ),
    "OneCycleLinear": (
        lambda: schedules.OneCycleLinear(160, 0.7, 0.25, 0.75, 20.0, 500.0),
        lambda: optax.linear_onecycle_schedule(160, 0.7, 0.25, 0.75, 20.0, 500.0),
    ),
    "OneCycleLinear, defaults": (
        lambda: schedules.OneCycleLinear(100, 0.7),
        lambda: optax.linear_onecycle_schedule(100, 0.7),
    ),
    "OneCycleCosine": (
        lambda: schedules.OneCycleCosine(160, 0.7, 0.25, 20.0, 500.0),
        lambda: optax.cosine_onecycle_schedule(160, 0.7, 0.25, 20.0, 500.0),
    ),
    "OneCycleCosine, defaults": (
        lambda: schedules.OneCycleCosine(100, 0.7),
        lambda: optax.cosine_onecycle_schedule(100, 0.7),
    ),
    "PiecewiseConstant": (
        lambda: schedules.PiecewiseConstant(0.8, (30, 100), (0.4, 0.04)),
        lambda: optax.piecewise_constant_schedule(0.8, {30: 0.5, 100: 0.1}),
    ),
    "PiecewiseInterpolate, linear": (
        lambda: schedules.PiecewiseInterpolate("linear", 0.8, [30, 150], [0.4, 0.6]),
        lambda: optax.piecewise_interpolate_schedule(
            "linear", 0.8, {30: 0.5, 150: 1.5}
        ),
    ),
    "PiecewiseInterpolate, cosine": (
        lambda: schedules.PiecewiseInterpolate("cosine", 0.8, [30, 150], [0.4, 0.6]),
        lambda: optax.piecewise_interpolate_schedule(
            "cosine", 0.8, {30: 0.5, 150: 1.5}
        ),
    ),
    "SGDR": (lambda: schedules.SGDR(CYCLES), lambda: optax.sgdr_schedule(CYCLES)),
    "Join": (
        lambda: schedules.Join(
            (0.3, schedules.CosineDecay(0.5, 60), schedules.Linear(0.0, 1.0, 30)),
            (20, 90),
        ),
        lambda: optax.join_schedules(
            (
                optax.constant_schedule(0.3),
                optax.cosine_decay_schedule(0.5, 60),
                optax.linear_schedule(0.0, 1.0, 30),
            ),
            (20, 90),
        ),
    ),
    "InverseSquareRoot": (
        lambda: schedules.InverseSquareRoot(0.1, 0.8, 20),
        lambda: inverse_square_root,
    ),
    "InverseSquareRoot, timescale": (
        lambda: schedules.InverseSquareRoot(0.0, 0.8, 20, 50),
        lambda: inverse_square_root_of_timescale,
    ),
    "WarmupStableDecay, linear": (
        lambda: schedules.WarmupStableDecay(0.2, 1.0, 20, 90, 60, 0.1),
        lambda: optax.join_schedules(
            (
                optax.linear_schedule(0.2, 1.0, 20),
                optax.constant_schedule(1.0),
                optax.linear_schedule(1.0, 0.1, 60),
            ),
            (20, 110),
        ),
    ),
    "WarmupStableDecay, 1-sqrt": (
        lambda: schedules.WarmupStableDecay(0.2, 1.0, 20, 90, 60, 0.1, "1-sqrt"),
        lambda: warmup_stable_decay(lambda d: 1 - jnp.sqrt(d)),
    ),
    "WarmupStableDecay, cosine": (
        lambda: schedules.WarmupStableDecay(0.2, 1.0, 20, 90, 60, 0.1, "cosine"),
        lambda: warmup_stable_decay(lambda d: 0.5 + 0.5 * jnp.cos(jnp.pi * d)),
    ),
    "Sum": (
        lambda: schedules.Linear(1.0, 0.1, 50) + schedules.CosineDecay(0.5, 150),
        lambda: (
            lambda step: (
                optax.linear_schedule(1.0, 0.1, 50)(step)
                + optax.cosine_decay_schedule(0.5, 150)(step)
            )
        ),
    ),
    "Product": (
        lambda: 0.5 * schedules.Linear(1.0, 0.1, 50) * schedules.CosineDecay(0.5, 150),
        lambda: (
            lambda step: (
                0.5
                * optax.linear_schedule(1.0, 0.1, 50)(step)
                * optax.cosine_decay_schedule(0.5, 150)(step)
            )
        ),
    ),
}
LIVE = [name for name in PAIRS if name != "Custom"]
STEPS = jnp.arange(200)


def concrete():
    # A name is loaded when it is first used, so `vars` need not have all of them.
    return {
        name
        for name in schedules.__all__
        if inspect.isclass(getattr(schedules, name)) and not name.startswith("Abstract")
    }


def test_every_schedule_has_a_reference():
    assert {type(make()).__name__ for make, _ in PAIRS.values()} == concrete()


def test_every_schedule_is_in_the_picture():
    docs = pathlib.Path(__file__).parents[1] / "docs"
    script = (docs / "pictures" / "schedules.py").read_text()
    picture = (docs / "pictures" / "schedules.svg").read_text()
    assert all(f'"{name}": ' in script for name in concrete())
    assert all(f"<!-- {name} -->" in picture for name in concrete())


@pytest.mark.parametrize("name", PAIRS)
def test_parity(name, x64):
    ours, theirs = (make() for make in PAIRS[name])
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(theirs)(STEPS.astype(float))
    np.testing.assert_allclose(jax.vmap(ours)(STEPS), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_made_inside_jit(name):
    """There even comparing two known numbers is part of the program."""
    make = PAIRS[name][0]
    value = jax.jit(lambda: jnp.asarray(make()(7)))()
    assert value == pytest.approx(float(make()(7)), rel=1e-5)


@pytest.mark.parametrize("name", LIVE)
def test_numbers_are_live(name):
    """Numbers are array leaves, so schedules can be batched. Every derivative is finite
    at every step."""
    schedule = PAIRS[name][0]()
    scaled = jax.tree.map(
        lambda x: jnp.multiply.outer(jnp.asarray([1.0, 0.9]), x), schedule
    )
    batched = jax.vmap(lambda s: s(30))(scaled)
    assert batched.shape == (2,)
    np.testing.assert_allclose(batched[0], schedule(30), rtol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(lambda s, t: s(t)), (None, 0)))
    slopes = slope(schedule, STEPS)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", LIVE)
def test_derivatives(name, x64):
    """Derivatives are the numeric slopes. The numbers are moved a little, because a
    corner has two slopes."""
    schedule = jax.tree.map(lambda x: 1.0137 * x + 0.00371, PAIRS[name][0]())
    numbers, unravel = jax.flatten_util.ravel_pytree(schedule)
    values = jax.jit(jax.vmap(lambda x, t: unravel(x)(t), (None, 0)))
    slopes = jax.jit(jax.jacobian(values))(numbers, STEPS)
    for i in range(numbers.size):
        h = 1e-6 * jnp.maximum(numbers[i], 0.1)
        up, down = (values(numbers.at[i].add(x), STEPS) for x in (h, -h))
        np.testing.assert_allclose(
            slopes[:, i], (up - down) / (2 * h), rtol=1e-5, atol=1e-8
        )


FROM_A_COUNT = {
    "Linear": lambda n: schedules.Linear(1.0, 0.0, n),
    "Polynomial": lambda n: schedules.Polynomial(1.0, 0.0, 2.0, n),
    "ExponentialDecay": lambda n: schedules.ExponentialDecay(1.0, n, n / 200),
    "CosineDecay": lambda n: schedules.CosineDecay(1.0, n),
    "WarmupConstant": lambda n: schedules.WarmupConstant(0.0, n, n),
    "WarmupExponentialDecay": lambda n: schedules.WarmupExponentialDecay(
        0.0, n, 10, n, 0.5, end_value=0.1
    ),
    "WarmupCosineDecay": lambda n: schedules.WarmupCosineDecay(0.0, n, 10, n),
    "OneCycleLinear": lambda n: schedules.OneCycleLinear(n, 1.0, n / 400),
    "OneCycleCosine": lambda n: schedules.OneCycleCosine(n, 1.0, n / 400),
    "PiecewiseConstant": lambda n: schedules.PiecewiseConstant(n, (10, n), (1, n)),
    "PiecewiseInterpolate": lambda n: schedules.PiecewiseInterpolate(
        "linear", n, jnp.stack([n, 2 * n]), (1, n)
    ),
    "SGDR": lambda n: schedules.SGDR([CYCLES[0] | {"decay_steps": n}, CYCLES[1]]),
    "Join": lambda n: schedules.Join((schedules.Linear(0.0, n, n), n), [n]),
    "InverseSquareRoot": lambda n: schedules.InverseSquareRoot(0.0, 1.0, n),
    "WarmupStableDecay": lambda n: schedules.WarmupStableDecay(0.0, 1.0, n, n, n),
    "Sum": lambda n: n - schedules.Linear(0.0, n, n),
    "Product": lambda n: n * -schedules.Linear(0.0, n, n),
}


@pytest.mark.parametrize("name", FROM_A_COUNT)
def test_made_inside_vmap(name):
    """Every count, peak and rate may be a traced number."""
    make = FROM_A_COUNT[name]
    counts = jnp.asarray([50.0, 100.0])
    got = jax.vmap(lambda n: make(n)(60))(counts)
    np.testing.assert_allclose(got, [make(n)(60) for n in counts], rtol=1e-5)


def test_exact_final_values():
    """Also in float32, where 1 + (1e-6 - 1) is wrong by 1%."""
    small = np.float32(1e-6)
    assert schedules.Linear(1.0, 1e-6, 10)(10) == small
    assert schedules.Polynomial(1.0, 1e-6, 2.0, 10)(10) == small
    assert schedules.CosineDecay(1.0, 10, 1e-6)(10) == small
    assert schedules.PiecewiseInterpolate("cosine", 1.0, [10], [1e-6])(10) == small
    assert schedules.WarmupStableDecay(0.0, 1.0, 2, 4, 4, 1e-6)(10) == small
    end = np.float32(1.0) / np.float32(25.0) / np.float32(1e4)
    assert schedules.OneCycleLinear(10, 1.0)(10) == end
    assert schedules.OneCycleCosine(10, 1.0)(10) == end


def test_long_after_the_end():
    """The power overflows there. Neither the value nor the derivative may."""
    schedule = schedules.ExponentialDecay(1e-7, 10, 10.0, end_value=1.0)
    value, slopes = jax.value_and_grad(lambda s: s(100_000))(schedule)
    assert value == 1
    assert all(np.isfinite(x) for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.WarmupConstant(0.0, 1.0, 0),
        schedules.WarmupExponentialDecay(0.0, 1.0, 0, 10, 0.5),
        schedules.WarmupCosineDecay(0.0, 1.0, 0, 10),
        schedules.WarmupStableDecay(0.0, 1.0, 0, 10, 10),
        schedules.InverseSquareRoot(0.0, 1.0, 0, timescale=10),
        schedules.OneCycleCosine(10, 1.0, pct_start=0.0),
        schedules.PiecewiseConstant(0.0, [0], [1.0]),
        schedules.PiecewiseInterpolate("linear", 0.0, [0, 10], [1.0, 0.0]),
        schedules.Join([0.0, 1.0], [0]),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_empty_first_phase(schedule):
    value, slopes = jax.value_and_grad(lambda s: s(0))(schedule)
    assert value == 1.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes))


def test_empty_last_phase():
    stop = schedules.WarmupStableDecay(0.0, 1.0, 0, 10, 0)
    assert (stop(9), stop(10)) == (1.0, 0.0)
    assert schedules.PiecewiseConstant(0.5, (), ())(10) == 0.5
    assert schedules.PiecewiseInterpolate("linear", 0.5, (), ())(10) == 0.5
    assert schedules.Join([0.5], ())(10) == 0.5


class TestRanges:
    @pytest.mark.parametrize(
        "make, match",
        [
            (
                lambda: schedules.Linear(0.0, 1.0, 0),
                r"`Linear\(transition_steps=0.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.Polynomial(0.0, 1.0, 0.0, 10),
                r"`Polynomial\(power=0.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.ExponentialDecay(1.0, 10, 0.0),
                r"`ExponentialDecay\(decay_rate=0.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.ExponentialDecay(1.0, 10, 0.5, end_value=jnp.nan),
                r"`ExponentialDecay\(end_value=nan\)`.*\(-inf, inf",
            ),
            (
                lambda: schedules.CosineDecay(1.0, -1),
                r"`CosineDecay\(decay_steps=-1.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.WarmupConstant(0.0, 1.0, -1),
                r"`WarmupConstant\(warmup_steps=-1.0\)`.*\[0, inf",
            ),
            (
                lambda: schedules.WarmupExponentialDecay(0.0, 1.0, 10, 0, 0.5),
                r"`WarmupExponentialDecay\(transition_steps=0.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.WarmupCosineDecay(0.0, 1.0, 10, 5),
                r"`WarmupCosineDecay\(warmup_steps=10.0, decay_steps=5.0\)`: "
                "`warmup_steps` < `decay_steps` must hold",
            ),
            (
                lambda: schedules.SGDR([CYCLES[0] | {"decay_steps": 10}]),
                "`warmup_steps` < `decay_steps` must hold",
            ),
            (lambda: schedules.SGDR([]), "`SGDR.*at least one cycle"),
            (
                lambda: schedules.OneCycleLinear(10, 1.0, -0.5),
                r"`OneCycleLinear\(pct_start=-0.5\)`.*\[0, 1\]",
            ),
            (
                lambda: schedules.OneCycleLinear(10, 1.0, 0.5, 0.4),
                "`pct_start` < `pct_final` must hold",
            ),
            (
                lambda: schedules.OneCycleCosine(10, 1.0, div_factor=0),
                r"`OneCycleCosine\(div_factor=0.0\)`.*\(0, inf",
            ),
            (
                lambda: schedules.PiecewiseConstant(1.0, (20, 10), (0.1, 0.2)),
                r"`PiecewiseConstant\(boundaries=\[20. 10.\]\)`: `boundaries` must inc",
            ),
            (
                lambda: schedules.PiecewiseConstant(1.0, (10, 20), (0.1, jnp.inf)),
                r"`PiecewiseConstant\(values=inf\)`: `values` at \[1\] must lie in",
            ),
            (
                lambda: schedules.PiecewiseConstant(1.0, (10, 20), (0.1,)),
                "2 `boundaries` and 1 `values`; it must have a value for each",
            ),
            (
                lambda: schedules.PiecewiseInterpolate("cubic", 1.0, (1,), (0.1,)),
                "`interpolate_type` must be one of 'linear', 'cosine'",
            ),
            (
                lambda: schedules.Join((1.0, 0.1), (10, 20)),
                "2 `schedules` and 2 `boundaries`; it must have a boundary between",
            ),
            (
                lambda: schedules.Join((1.0, 0.1), (-10,)),
                r"`Join\(boundaries=-10.0\)`: `boundaries` at \[0\].*\[0, inf",
            ),
            (
                lambda: schedules.InverseSquareRoot(0.0, 1.0, 0),
                "`InverseSquareRoot.*without a warm-up give `timescale`",
            ),
            (
                lambda: schedules.WarmupStableDecay(0.0, 1.0, 1, -1, 1),
                r"`WarmupStableDecay\(stable_steps=-1.0\)`.*\[0, inf",
            ),
            (
                lambda: schedules.WarmupStableDecay(0, 1, 1, 1, 1, decay_type="sqrt"),
                "`decay_type` must be one of 'linear', 'cosine', '1-sqrt'",
            ),
            (
                lambda: schedules.Linear(0.0, 1.0, 10) * float("nan"),
                r"`Constant\(value=nan\)`",
            ),
            (
                lambda: schedules.PiecewiseConstant(1.0, jnp.ones((2, 2)), (0.1,)),
                r"expected a 1-d array of numbers, got one of shape \(2, 2\)",
            ),
        ],
    )
    def test_value_error(self, make, match):
        with pytest.raises(ValueError, match=match):
            make()

    def test_missing_number(self):
        with pytest.raises(TypeError, match="`end_value` must be given"):
            schedules.Linear(0.0, None, 10)

    def test_a_dictionary_of_boundaries(self):
        with pytest.raises(TypeError):
            schedules.PiecewiseConstant(1.0, {10: 0.1}, (0.1,))

    def test_traced_numbers_are_not_checked(self):
        jax.jit(lambda n: schedules.WarmupCosineDecay(0.0, 1.0, 10, n)(0))(5)
        jax.jit(lambda n: schedules.Join((1.0, 0.5, 0.1), (10, n))(0))(5)


class TestJoin:
    def test_schedules_are_not_evaluated_outside_their_phases(self):
        """There they may be infinite, and the derivatives would be NaN."""
        joined = schedules.Join(
            (
                lambda t: 1 / jnp.sqrt(11 - jnp.asarray(t, float)),
                lambda t: jnp.log(1 + jnp.asarray(t, float)),
                1.0,
            ),
            (10.5, 20.5),
        )
        slopes = jax.vmap(jax.grad(lambda s, t: s(t)), (None, 0))(joined, STEPS)
        assert np.all(np.isfinite(slopes.boundaries))
        # In the second phase, the slope in its start is minus the slope in time.
        np.testing.assert_allclose(slopes.boundaries[15], [-1 / 5.5, 0], rtol=1e-6)

    def test_delay(self):
        line = schedules.Linear(0.0, 1.0, 10)
        delayed = schedules.Join((0.0, line), (5,))
        np.testing.assert_allclose(
            jax.vmap(delayed)(STEPS), jax.vmap(line)(jnp.maximum(STEPS - 5, 0))
        )


LINE = schedules.Linear(1.0, 0.0, 4)


class TestArithmetic:
    @pytest.mark.parametrize(
        "schedule, value",
        [
            (LINE + 1, 1.75),
            (1 + LINE, 1.75),
            (LINE - 1, -0.25),
            (1 - LINE, 0.25),
            (LINE * 2, 1.5),
            (2 * LINE, 1.5),
            (-LINE, -0.75),
            (LINE + LINE, 1.5),
            (LINE - LINE, 0.0),
            (LINE * LINE, 0.5625),
            (np.float64(2) * LINE, 1.5),
            (np.asarray(2.0) * LINE, 1.5),
            (jnp.asarray(2.0) * LINE, 1.5),
            (LINE * np.float32(2), 1.5),
            ((lambda step: 2.0) * LINE, 1.5),
            (LINE - (lambda step: 0.25), 0.5),
            (sum([LINE, LINE]), 1.5),
        ],
    )
    def test_value(self, schedule, value):
        assert isinstance(schedule, schedules.AbstractSchedule)
        assert schedule(1) == value

    def test_scaling_a_scaled_schedule(self):
        rate = 0.5 * LINE
        changed = eqx.tree_at(lambda r: r.left.value, rate, jnp.asarray(2.0))
        assert changed(1) == 1.5

    @pytest.mark.parametrize("other", ["2", jnp.ones(2), None, 1j])
    def test_not_a_schedule(self, other):
        with pytest.raises((TypeError, ValueError)):
            LINE * other


def test_one_schedule_in_many_places():
    """Each place gets a copy, so that the optimizer can be donated."""
    opt = eqxopt.AdamW(
        LINE * LINE, weight_decay=LINE, eps=schedules.Join([LINE] * 2, [3])
    )
    opt = opt.init(jnp.ones(2))
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((opt, LINE))]
    assert len(set(pointers)) == len(pointers)
    choice = eqxopt.SGD(lambda path, array: LINE).init({"a": jnp.ones(2), "b": 1.0})
    jax.jit(lambda opt: opt, donate_argnums=0)(choice)
    assert LINE(1) == 0.75


def test_first_update_sees_step_zero():
    params = jnp.ones(())
    opt = eqxopt.SGD(schedules.Linear(1.0, 0.0, 2)).init(params)
    rates = []
    for _ in range(3):
        new, opt = opt.apply(jnp.ones(()), params)
        rates.append(float(params - new))
    assert rates == [1.0, 0.5, 0.0]


def test_function_is_wrapped():
    opt = eqxopt.SGD(lambda step: 0.5 ** step.astype(float))
    assert isinstance(opt.learning_rate, schedules.Custom)
    assert opt.hyperparameters()["learning_rate"] == 1.0
