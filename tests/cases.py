"""The tables of optimizers, transforms and wrappers that the contract is run over."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import pytest
from own_optimizers import MeanGradient, SoftClip, UniformAverage

import eqxopt


@dataclass(frozen=True)
class Case:
    """How to make one, and what its rule allows.

    - `make`: uses options that bring every part of the rule into play. For a wrapper it
        takes the name of the optimizer inside, one of `INNER`.
    - `complex`: parameters may be complex.
    - `smooth`: updates are differentiable in the hyperparameters, so that finite
        differences mean something.
    - `coupled`: the update of a parameter depends on the other parameters.
    - `needs_value`: an optimizer needs the loss.
    - `zero`: a transform turns gradients of zero into updates of zero.
    - `guards`: a wrapper keeps gradients that are not finite from the parameters.
    - `narrow_state`: the state is narrower than float32, because that is its purpose.
    """

    make: Callable[..., eqxopt.AbstractOptimizer | eqxopt.AbstractTransform]
    complex: bool = True
    smooth: bool = True
    coupled: bool = False
    needs_value: bool = False
    zero: bool = True
    guards: bool = False
    narrow_state: bool = False


OPTIMIZERS: dict[str, Case] = {
    "AcProp": Case(
        lambda: eqxopt.AcProp(0.01, b2=0.9, eps=1e-2, eps_root=1e-3, weight_decay=0.1)
    ),
    "AdaBelief": Case(
        lambda: eqxopt.AdaBelief(
            0.01, eps=1e-3, eps_root=1e-4, weight_decay=0.1, nesterov=True
        )
    ),
    "Adam": Case(lambda: eqxopt.Adam(0.01, nesterov=True)),
    "Adamax": Case(lambda: eqxopt.Adamax(0.01, b2=0.9, eps=1e-3)),
    "AdamaxW": Case(lambda: eqxopt.AdamaxW(0.01, b2=0.9, weight_decay=0.1)),
    "AdamMini": Case(
        lambda: eqxopt.AdamMini(0.01, b2=0.9, eps=1e-3, weight_decay=0.1),
    ),
    "AdamW": Case(lambda: eqxopt.AdamW(0.01, weight_decay=0.1)),
    "Adan": Case(lambda: eqxopt.Adan(0.01, eps_root=1e-4, weight_decay=0.1)),
    "AdEMAMix": Case(
        lambda: eqxopt.AdEMAMix(0.01, b3=0.99, alpha=2.0, weight_decay=0.1)
    ),
    "ADOPT": Case(
        lambda: eqxopt.ADOPT(0.01, b2=0.9, eps=0.1, nesterov=True, clip_value_fn=1.5)
    ),
    "AMSGrad": Case(lambda: eqxopt.AMSGrad(0.01, b2=0.9, eps_root=1e-3)),
    "APOLLO": Case(
        lambda: eqxopt.APOLLO(
            0.01,
            2,
            2,
            0.5,
            0.1,
            b2=0.9,
            eps=1e-3,
            fallback=eqxopt.AdamW(0.01),
            seed=1,
        ),
    ),
    "BFGS": Case(
        lambda: eqxopt.BFGS(0.1, linesearch=None, max_bytes=2**40), coupled=True
    ),
    "CAME": Case(
        lambda: eqxopt.CAME(
            0.01,
            b2=0.9,
            b3=0.95,
            eps=1e-4,
            eps_instability=1e-2,
            clipping_threshold=0.5,
            weight_decay=0.1,
        ),
    ),
    "COCOB": Case(lambda: eqxopt.COCOB(0.8, 2.5, eps=0.1, weight_decay=0.1)),
    "DAdaptAdamW": Case(
        lambda: eqxopt.DAdaptAdamW(b2=0.9, eps=1e-2, estim_lr0=0.01, weight_decay=0.1),
        coupled=True,
    ),
    "DoG": Case(
        lambda: eqxopt.DoG(init_step=0.01, eps=1e-3, weight_decay=0.1),
        coupled=True,
    ),
    "DoWG": Case(
        lambda: eqxopt.DoWG(init_estim_sq_dist=0.01, eps=1e-3, weight_decay=0.1),
        coupled=True,
    ),
    "Fromage": Case(lambda: eqxopt.Fromage(0.01)),
    "GaLore": Case(
        lambda: eqxopt.GaLore(
            0.01,
            2,
            4,
            0.5,
            0.1,
            b2=0.9,
            eps=1e-3,
            fallback=eqxopt.AdamW(0.01),
        ),
    ),
    "GaussNewton": Case(
        lambda: eqxopt.GaussNewton(0.1, 0.1, momentum=0.5, max_norm=0.5),
        coupled=True,
    ),
    "KLShampoo": Case(
        lambda: eqxopt.KLShampoo(
            0.01,
            b2=0.9,
            eps=1e-2,
            weight_decay=0.1,
            init_factor=0.5,
            precondition_frequency=2,
            fallback=eqxopt.AdamW(0.01),
        ),
        smooth=False,
    ),
    "LAMB": Case(lambda: eqxopt.LAMB(0.01, weight_decay=0.1)),
    "LARS": Case(
        lambda: eqxopt.LARS(0.01, 0.1, trust_coefficient=0.1, nesterov=True),
    ),
    "LaProp": Case(lambda: eqxopt.LaProp(0.01, b2=0.9, weight_decay=0.1)),
    "LBFGS": Case(
        lambda: eqxopt.LBFGS(0.1, memory_size=3, linesearch=None),
        coupled=True,
    ),
    "LevenbergMarquardt": Case(
        lambda: eqxopt.LevenbergMarquardt(0.1), smooth=False, coupled=True
    ),
    "Lion": Case(lambda: eqxopt.Lion(0.01, weight_decay=0.1)),
    "MADGRAD": Case(lambda: eqxopt.MADGRAD(0.1, weight_decay=0.1, eps=1e-3)),
    "MARS": Case(
        lambda: eqxopt.MARS(0.01, 0.9, 0.9, gamma=0.1, eps=1e-3, weight_decay=0.1),
    ),
    "MoMo": Case(
        lambda: eqxopt.MoMo(
            0.05, lower_bound=-1.0, weight_decay=0.1, adapt_lower_bound=True
        ),
        coupled=True,
        needs_value=True,
    ),
    "MoMoAdam": Case(
        lambda: eqxopt.MoMoAdam(
            0.05, b2=0.9, eps=1e-2, lower_bound=0.5, weight_decay=0.1
        ),
        coupled=True,
        needs_value=True,
    ),
    "Muon": Case(
        lambda: eqxopt.Muon(
            0.01,
            beta=0.9,
            weight_decay=0.1,
            consistent_rms=0.2,
            fallback=eqxopt.AdamW(0.01),
        ),
    ),
    "NAdam": Case(lambda: eqxopt.NAdam(0.01)),
    "NAdamW": Case(lambda: eqxopt.NAdamW(0.01, weight_decay=0.1)),
    "NewtonCG": Case(
        lambda: eqxopt.NewtonCG(0.1, 2.0, 4, 2, linesearch=None, cg_rtol=1e-8, seed=1),
        smooth=False,
        coupled=True,
    ),
    "NoisySGD": Case(lambda: eqxopt.NoisySGD(0.01, eta=0.1, seed=1)),
    "NorMuon": Case(
        lambda: eqxopt.NorMuon(
            0.01,
            beta=0.9,
            beta2=0.8,
            eps=1e-3,
            weight_decay=0.1,
            nesterov=True,
            fallback=eqxopt.AdamW(0.01),
        ),
    ),
    "NovoGrad": Case(lambda: eqxopt.NovoGrad(0.01, weight_decay=0.1)),
    "OptimisticGradientDescent": Case(
        lambda: eqxopt.OptimisticGradientDescent(0.01, alpha=0.8, beta=0.5)
    ),
    "OptimisticAdam": Case(
        lambda: eqxopt.OptimisticAdam(0.01, alpha=0.8, beta=0.5, b2=0.9)
    ),
    "Shampoo": Case(
        lambda: eqxopt.Shampoo(
            0.01,
            b2=0.9,
            eps=1e-2,
            weight_decay=0.1,
            precondition_frequency=2,
            graft_eps=1e-3,
            fallback=eqxopt.AdamW(0.01),
        ),
    ),
    "SignSGD": Case(lambda: eqxopt.SignSGD(0.01)),
    "Signum": Case(lambda: eqxopt.Signum(0.01, 0.8)),
    "Prodigy": Case(
        lambda: eqxopt.Prodigy(
            b2=0.9, b3=0.8, eps=1e-2, estim_lr0=0.01, weight_decay=0.1
        ),
        coupled=True,
    ),
    "PSGDKron": Case(
        lambda: eqxopt.PSGDKron(
            0.01,
            weight_decay=0.1,
            preconditioner_update_probability=0.6,
            max_size_triangular=3,
            preconditioner_lr=0.2,
            preconditioner_init_scale=2.0,
            seed=1,
        ),
    ),
    "RAdam": Case(lambda: eqxopt.RAdam(0.01, nesterov=True)),
    "PolyakSGD": Case(
        lambda: eqxopt.PolyakSGD(scaling=0.5, f_min=0.1, eps=0.1),
        coupled=True,
        needs_value=True,
    ),
    "ScheduleFreeAdamW": Case(
        lambda: eqxopt.ScheduleFreeAdamW(0.01, 2.5, b2=0.9, weight_decay=0.1)
    ),
    "ScheduleFreeSGD": Case(lambda: eqxopt.ScheduleFreeSGD(0.1, 2.5, weight_decay=0.1)),
    "Scion": Case(
        lambda: eqxopt.Scion(0.01, radius=2.0, fallback=eqxopt.AdamW(0.01)),
    ),
    "SGD": Case(lambda: eqxopt.SGD(0.01, momentum=0.9, nesterov=True)),
    "SimplifiedAdEMAMix": Case(
        lambda: eqxopt.SimplifiedAdEMAMix(0.01, alpha=2.0, weight_decay=0.1)
    ),
    "Sophia": Case(
        lambda: eqxopt.Sophia(
            0.01, eps=0.1, weight_decay=0.1, gamma=0.5, update_interval=2, seed=1
        )
    ),
    "SOAP": Case(
        lambda: eqxopt.SOAP(
            0.01,
            b1=0.9,
            shampoo_beta=0.8,
            eps=1e-3,
            weight_decay=0.1,
            precondition_frequency=2,
            fallback=eqxopt.AdamW(0.01),
        ),
        smooth=False,
    ),
    "SSBFGS": Case(
        lambda: eqxopt.SSBFGS(0.1, linesearch=None, max_bytes=2**40), coupled=True
    ),
    "SSBroyden": Case(
        lambda: eqxopt.SSBroyden(0.1, linesearch=None, max_bytes=2**40),
        coupled=True,
        smooth=False,
    ),
    "StableAdamW": Case(
        lambda: eqxopt.StableAdamW(0.01, b2=0.9, clipping_threshold=0.5),
    ),
    "Yogi": Case(lambda: eqxopt.Yogi(0.01, b2=0.9)),
    "Adadelta": Case(lambda: eqxopt.Adadelta(1.0, eps=1e-3, weight_decay=0.1)),
    "Adafactor": Case(
        lambda: eqxopt.Adafactor(
            0.01,
            2,
            decay_offset=-2,
            clipping_threshold=0.5,
            momentum=0.9,
            dtype_momentum=None,
            weight_decay_rate=0.01,
        ),
    ),
    "Adagrad": Case(lambda: eqxopt.Adagrad(0.1)),
    "RMSProp": Case(
        lambda: eqxopt.RMSProp(
            0.01,
            eps=1e-3,
            initial_scale=0.5,
            centered=True,
            momentum=0.9,
            nesterov=True,
            bias_correction=True,
        )
    ),
    "Rprop": Case(
        lambda: eqxopt.Rprop(0.01, delayed=False), complex=False, smooth=False
    ),
    "SM3": Case(lambda: eqxopt.SM3(0.1)),
}

TRANSFORMS: dict[str, Case] = {
    "AdaptiveGradientClipping": Case(
        lambda: eqxopt.AdaptiveGradientClipping(0.03, eps=0.5)
    ),
    "AddDecayedWeights": Case(lambda: eqxopt.AddDecayedWeights(-0.1), zero=False),
    "AddNoise": Case(lambda: eqxopt.AddNoise(0.01, seed=1), zero=False),
    "CentralizeGradients": Case(eqxopt.CentralizeGradients),
    "ClipByGlobalNorm": Case(lambda: eqxopt.ClipByGlobalNorm(0.1), coupled=True),
    "ClipByNorm": Case(lambda: eqxopt.ClipByNorm(0.1)),
    "ClipByValue": Case(lambda: eqxopt.ClipByValue(0.05)),
    "KeepInBox": Case(lambda: eqxopt.KeepInBox(-0.2, 0.9), complex=False, zero=False),
    "KeepNonnegative": Case(eqxopt.KeepNonnegative, complex=False, zero=False),
    "Normalize": Case(lambda: eqxopt.Normalize(0.1, eps=0.1), coupled=True),
    "Scale": Case(lambda: eqxopt.Scale(0.5)),
    "ScaleByTrustRatio": Case(lambda: eqxopt.ScaleByTrustRatio(0.01, 0.1, 0.1)),
    "Sign": Case(eqxopt.Sign),
    "ZeroNaNs": Case(eqxopt.ZeroNaNs),
}
# These take one gradient for each example. `test_private.py` has their contract.
PER_EXAMPLE = {"DifferentiallyPrivateAggregate"}

# Optimizers to put into a wrapper: one that acts on each entry alone, and one that also
# looks at the norm of each parameter.
INNER: dict[str, Callable[[], eqxopt.AbstractOptimizer]] = {
    "AdamW": lambda: eqxopt.AdamW(0.1, weight_decay=0.1),
    "LAMB": lambda: eqxopt.LAMB(0.1, weight_decay=0.1),
}


def bytes_or_words(path: str, x: jax.Array) -> str:
    """How the moments of a parameter are stored: in 8 bits where that is possible."""
    return "8-bit" if x.dtype.itemsize <= 4 else "float32"


def around(wrap, **flags) -> Case:
    """The case of a wrapper."""
    return Case(lambda inner="AdamW": wrap(INNER[inner]()), **flags)


WRAPPERS: dict[str, Case] = {
    "Accumulate": around(
        lambda inner: eqxopt.Accumulate(inner, 2, drop_nonfinite=True), guards=True
    ),
    "Cautious": around(eqxopt.Cautious),
    "CautiousWeightDecay": around(lambda inner: eqxopt.CautiousWeightDecay(inner, 0.1)),
    "CompactState": around(
        lambda inner: eqxopt.CompactState(inner, bytes_or_words, min_size=1),
        narrow_state=True,
    ),
    "CompensatedWeights": around(eqxopt.CompensatedWeights, narrow_state=True),
    "DecoupledWeightDecay": around(
        lambda inner: eqxopt.DecoupledWeightDecay(inner, 0.1)
    ),
    "DecoupledWeightDecay corrected": around(
        lambda inner: eqxopt.DecoupledWeightDecay(
            inner, 0.1, convention="corrected", max_learning_rate=0.2
        )
    ),
    "DecoupledWeightDecay independent": around(
        lambda inner: eqxopt.DecoupledWeightDecay(inner, 0.1, convention="independent")
    ),
    "DecoupledWeightDecay l2": around(
        lambda inner: eqxopt.DecoupledWeightDecay(inner, 0.1, convention="l2")
    ),
    "EMA": around(lambda inner: eqxopt.EMA(inner, 0.9)),
    "EMA biased": around(lambda inner: eqxopt.EMA(inner, 0.9, debias=False)),
    "Hyperball": around(eqxopt.Hyperball),
    "Hyperball current": around(
        lambda inner: eqxopt.Hyperball(inner, 0.05, initial_norm=False)
    ),
    "Lookahead": around(lambda inner: eqxopt.Lookahead(inner, 2, 0.8)),
    "Lookahead reset": around(
        lambda inner: eqxopt.Lookahead(inner, 2, reset_state=True)
    ),
    "LossScaling": around(lambda inner: eqxopt.LossScaling(inner, 4.0, 2), guards=True),
    "MasterWeights": around(eqxopt.MasterWeights),
    "Mechanic": around(lambda inner: eqxopt.Mechanic(inner, s_init=0.1)),
    "Monitor": around(eqxopt.Monitor),
    "ReduceOnPlateau": around(
        lambda inner: eqxopt.ReduceOnPlateau(inner, 0.5, patience=1, cooldown=1)
    ),
    "SAM": around(eqxopt.SAM),
    "SAM adaptive": around(lambda inner: eqxopt.SAM(inner, 0.5, adaptive=True)),
    "ScheduleFree": around(lambda inner: eqxopt.ScheduleFree(inner, b1=0.8)),
    "ScheduleFree weight_lr": around(lambda inner: eqxopt.ScheduleFree(inner, 0.1)),
    "SkipNonFinite": around(
        lambda inner: eqxopt.SkipNonFinite(inner, max_consecutive=2), guards=True
    ),
    "SkipOnSpike": around(
        lambda inner: eqxopt.SkipOnSpike(inner, window=4), guards=True
    ),
    "SplitWeights": around(eqxopt.SplitWeights, narrow_state=True),
    "StochasticRounding": around(eqxopt.StochasticRounding),
}

# Those of a user, which the documentation shows: the contract holds for them as well.
OWN_OPTIMIZERS = {"MeanGradient": Case(lambda: MeanGradient(0.01, 0.8, 0.1))}
OWN_TRANSFORMS = {"SoftClip": Case(lambda: SoftClip(0.1))}
OWN_WRAPPERS = {"UniformAverage": around(UniformAverage)}

# One of each kind of rule. A quick run looks at these wherever a test goes through a
# table, and at all cases only where the numbers of each are checked.
EXAMPLES = frozenset(
    "Adafactor AdamW GaussNewton LBFGS Lion MeanGradient Muon PolyakSGD Prodigy "
    "ScheduleFreeAdamW SOAP Sophia "
    "AddNoise ClipByGlobalNorm ScaleByTrustRatio SoftClip "
    "Accumulate EMA MasterWeights SAM ScheduleFree UniformAverage".split()
)
_IN_TABLES = frozenset(
    OPTIMIZERS | TRANSFORMS | WRAPPERS | OWN_OPTIMIZERS | OWN_TRANSFORMS | OWN_WRAPPERS
)


def each(names: Iterable[str]) -> list[Any]:
    """Names as parameters of a test. Cases of the tables that are no examples are left
    to a full run, `pytest -m ""`."""
    return few(names, EXAMPLES | {x for x in names if x not in _IN_TABLES})


def few(names: Iterable[Any], examples: Iterable[Any]) -> list[Any]:
    """The same, with other examples."""
    return [name if name in examples else _more(name) for name in names]


def _more(name: Any) -> Any:
    values = name if isinstance(name, tuple) else (name,)
    return pytest.param(*values, marks=pytest.mark.more)
