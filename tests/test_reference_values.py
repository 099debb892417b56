"""The losses that optax's documentation prints, to the digits it prints."""

import jax
import jax.numpy as jnp
import pytest

import eqxopt


PRINTED = {
    "AdaBelief": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.8 13.8"),
    "Adadelta": ({"learning_rate": 10.0}, "14.0 13.6 13.2 12.9 12.5 12.1"),
    "Adafactor": ({"learning_rate": 0.003}, "14.0 13.9 13.8 13.8 13.7 13.6"),
    "Adagrad": ({"learning_rate": 1.0}, "14.0 5.01 2.4 1.25 0.686 0.385"),
    "Adam": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "Adamax": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "AdamaxW": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "AdamW": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "AMSGrad": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "DoWG": ({}, "14.0 13.92537 13.87276 13.77543 13.59617 13.26884"),
    "Fromage": ({"learning_rate": 0.003}, "14.0 13.9 13.8 13.7 13.7 13.6"),
    "LAMB": ({"learning_rate": 0.003}, "14.0 13.9 13.8 13.8 13.7 13.6"),
    "LARS": ({"learning_rate": 0.003}, "14.0 14.0 14.0 14.0 14.0 14.0"),
    "Lion": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.9 13.8"),
    "NAdam": ({"learning_rate": 0.003}, "14.0 13.9 13.9 13.9 13.8 13.8"),
    "NAdamW": ({"learning_rate": 0.003}, "14.0 13.9 13.9 13.9 13.8 13.8"),
    "NovoGrad": ({"learning_rate": 0.003}, "14.0 14.0 13.9 13.9 13.8 13.7"),
    # The page is older: there the previous gradient of the first step is zero. These
    # are the numbers of optax 0.2.8.
    "OptimisticGradientDescent": (
        {"learning_rate": 0.003},
        "14.0 13.8 13.7 13.5 13.3 13.2",
    ),
    "PolyakSGD": ({}, "14.0 3.5 0.875 0.21875 0.0546875 0.013671875"),
    "RAdam": ({"learning_rate": 0.003}, "14.0 13.8 13.7 13.5 13.3 13.2"),
    "RMSProp": ({"learning_rate": 0.003}, "14.0 13.9 13.8 13.7 13.7 13.6"),
    "Rprop": ({"learning_rate": 0.003}, "14.0 14.0 14.0 13.9 13.9 13.8"),
    "SGD": ({"learning_rate": 0.003}, "14.0 13.8 13.7 13.5 13.3 13.2"),
    "SimplifiedAdEMAMix": ({"learning_rate": 0.01}, "14.0 13.9 13.6 13.3 12.8 12.3"),
    "SM3": ({"learning_rate": 0.003}, "14.0 14.0 14.0 14.0 14.0 14.0"),
    "Yogi": ({"learning_rate": 0.002}, "14.0 14.0 14.0 13.9 13.9 13.9"),
    # Its noise is too small here to show.
    "NoisySGD": ({"learning_rate": 0.003}, "14.0 13.8 13.7 13.5 13.3 13.2"),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_losses(name):
    options, printed = PRINTED[name]
    f = lambda x: jnp.sum(x**2)
    x = jnp.array([1.0, 2.0, 3.0])
    opt = getattr(eqxopt, name)(**options).init(x)
    losses = [f(x)]
    for _ in range(5):
        value, grads = jax.value_and_grad(f)(x)
        x, opt = opt.apply(grads, x, value=value)
        losses.append(f(x))
    for loss, text in zip(losses, printed.split(), strict=True):
        digits = len(text.replace(".", "").lstrip("0"))
        # Half a unit of the last digit, or what rounding half digits twice may add.
        assert abs(float(loss) - float(text)) <= 0.51 * 10.0 ** (
            len(text.split(".")[0].lstrip("0")) - digits
        ) + 1e-6 * float(text), (losses, printed)
