"""What a user sees of an optimizer: its `repr`, its signature, its completions."""

import inspect
import pydoc

import equinox as eqx
import jax
import jax.numpy as jnp

import eqxopt
from eqxopt import schedules


def test_numbers_are_shown():
    shown = repr(eqxopt.AdamW(1e-3, weight_decay=0.0))
    assert shown.startswith("AdamW(")
    for part in ("learning_rate=0.001", "b1=0.9", "b2=0.999", "weight_decay=0"):
        assert part in shown
    assert "nesterov" not in shown  # it has its default
    assert "nesterov=True" in repr(eqxopt.AdamW(1e-3, nesterov=True))


def test_schedules_and_choices_are_shown_with_their_numbers():
    ramp = schedules.Linear(0.0, 0.5, transition_steps=100)
    opt = eqxopt.SGD(ramp, momentum={"a": 0.9, "b": 0.8})
    shown = repr(opt)
    assert "Linear(init_value=0, end_value=0.5, transition_steps=100" in shown
    assert "['a']: 0.9" in shown and "['b']: 0.8" in shown
    assert "my_rate" in repr(eqxopt.SGD(my_rate))


def my_rate(step):
    return 0.1 / (step + 1)


def test_state_is_shown_as_shapes_in_a_few_lines():
    model = eqx.nn.MLP(8, 8, width_size=8, depth=40, key=jax.random.key(0))
    opt = eqxopt.Chain(
        eqxopt.ClipByGlobalNorm(1.0), eqxopt.EMA(eqxopt.AdamW(1e-3), 0.99)
    )
    shown = repr(opt.init(model))
    assert "mu, nu: 41 × f32[8,8] + 41 × f32[8]" in shown
    assert "mean: 41 × f32[8,8] + 41 × f32[8]" in shown
    assert len(shown.splitlines()) < 20
    assert max(map(len, shown.splitlines())) <= 100


def test_repr_inside_jit_and_after_donation():
    params = jnp.ones(2)
    opt = eqxopt.AdamW(0.1).init(params)
    seen = []
    jax.jit(lambda opt: seen.append(repr(opt)))(opt)
    assert "learning_rate=f32[]" in seen[0]
    jax.jit(lambda opt: opt, donate_argnums=0)(opt)
    assert "learning_rate=f32[]" in repr(opt)


def test_signatures_have_short_names():
    signature = str(inspect.signature(eqxopt.AdamW))
    assert "learning_rate: HyperparameterLike," in signature
    assert "mask: MaskLike | None = None" in signature
    assert "mu_dtype: DTypeLike | None = None" in signature
    assert "seed: int | Array" in str(inspect.signature(eqxopt.NoisySGD))
    assert "matrices: MatricesLike" in str(inspect.signature(eqxopt.Muon))
    page = pydoc.plain(pydoc.render_doc(eqxopt.AdamW))
    assert "learning_rate: HyperparameterLike," in page
    signature = str(inspect.signature(schedules.Linear))
    assert "init_value: NumberLike" in signature


def test_completions_are_what_a_user_calls():
    names = set(dir(eqxopt.Accumulate(eqxopt.AdamW(0.1), 4)))
    wanted = {"init", "apply", "update", "replace", "hyperparameters", "eval_params"}
    assert wanted | {"every", "optimizer", "count", "weighted", "micro_steps"} <= names
    assert not names & {"start", "advance", "evaluate", "uses_value_fn", "per_example"}
    assert not {"init_leaf", "update_leaf"} & set(dir(eqxopt.AdamW(0.1)))
    assert {"beta", "newton_schulz"} <= set(dir(eqxopt.Muon(0.1)))
    assert not {"accumulate", "views", "precondition"} & set(dir(eqxopt.Muon(0.1)))
