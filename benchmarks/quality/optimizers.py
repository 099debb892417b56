"""Every optimizer of the library, each made from one number of the same grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import eqxopt
from eqxopt.schedules import WarmupCosineDecay

from .tasks import Task


Number = Any
Make = Callable[[Number, int], eqxopt.AbstractOptimizer]

NUMBERS = [float(f"{x:.3g}") for x in 10 ** np.linspace(-4.5, 1.0, 12)]
"""From 0.00003 to 10, two a decade: the grid of all."""


@dataclass(frozen=True)
class Contender:
    """How an optimizer is made from a number and the steps of the run, what the number
    is, and what a task must have.

    - `number`: `None` if there is nothing to tune.
    - `needs`: the exact loss, for a line search; residuals; matrices; float32.
    - `alone`: whether runs are tuned one after the other. Side by side they would do in
      every step what one of them does in some.
    """

    make: Make
    number: str | None = "learning rate"
    needs: Literal["exact loss", "residuals", "matrices", "float32"] | None = None
    alone: bool = False

    def numbers(self, grid: list[float]) -> list[float]:
        return [1.0] if self.number is None else grid

    def why_not(self, task: Task) -> str | None:
        """Why it does not run on a task."""
        if self.needs == "exact loss" and task.noisy:
            return "its line search needs a loss that is the same from step to step"
        if self.needs == "residuals" and not task.residuals:
            return "the loss is not given as a sum of squares"
        if self.needs == "matrices" and not task.matrices:
            return "there is no matrix, and it would be its fallback"
        if self.needs == "float32" and task.float64:
            return "its state is a form of float32"
        return None


def warm_up(steps: int) -> int:
    return steps // 20


def cosine(number: Number, steps: int) -> WarmupCosineDecay:
    """Up for a twentieth of the steps, then down to 0."""
    return WarmupCosineDecay(0.0, number, warm_up(steps), steps)


def by_rate(make: Callable[..., Any], **options: Any) -> Make:
    """All hyperparameters but the learning rate have their defaults."""
    return lambda number, steps: make(cosine(number, steps), **options)


def on_matrices(make: Callable[..., Any], **options: Any) -> Contender:
    """What is no matrix is trained at the same rate by the fallback."""

    def made(number: Number, steps: int) -> eqxopt.AbstractOptimizer:
        rate = cosine(number, steps)
        fallback = eqxopt.AdamW(rate, b2=0.95, weight_decay=0.0)
        return make(rate, fallback=fallback, **options)

    return Contender(made, needs="matrices")


def searching(make: Callable[..., Any]) -> Contender:
    return Contender(lambda number, steps: make(), None, "exact loss")


def damped(make: Callable[..., Any], default: float, needs: Any, **options: Any):
    return Contender(
        lambda number, steps: make(damping=default * number, **options),
        f"damping / {default:g}",
        needs,
        alone=True,
    )


def around(wrap: Callable[[Any], eqxopt.AbstractOptimizer], needs: Any = None):
    """A wrapper of AdamW."""
    return Contender(
        lambda number, steps: wrap(eqxopt.AdamW(cosine(number, steps))), needs=needs
    )


def _schedule_free(make: Callable[..., Any]) -> Contender:
    return Contender(
        lambda number, steps: make(number, warmup_steps=warm_up(steps)),
        "learning rate, constant after the warm-up",
    )


RATES = """
AcProp AdaBelief Adadelta Adafactor Adagrad Adam AdamMini AdamW Adamax AdamaxW Adan
AdEMAMix ADOPT AMSGrad CAME Fromage LAMB LARS LaProp Lion MADGRAD MARS NAdam NAdamW
NoisySGD NovoGrad OptimisticAdam OptimisticGradientDescent PSGDKron RAdam RMSProp SGD
SignSGD Signum SimplifiedAdEMAMix SM3 Sophia StableAdamW Yogi
""".split()
MULTIPLIERS = "COCOB DAdaptAdamW DoG DoWG Prodigy".split()
LONGEST_STEPS = "MoMo MoMoAdam".split()
MATRICES = "APOLLO GaLore KLShampoo Muon NorMuon Scion Shampoo SOAP".split()
SEARCHING = "BFGS LBFGS SSBFGS SSBroyden".split()


def _of(names: list[str], make: Callable[[Any], Contender]) -> dict[str, Contender]:
    return {name: make(getattr(eqxopt, name)) for name in names}


PLAIN: dict[str, Contender] = {
    **_of(RATES, lambda make: Contender(by_rate(make))),
    **_of(MULTIPLIERS, lambda make: Contender(by_rate(make), "multiplier")),
    **_of(LONGEST_STEPS, lambda make: Contender(by_rate(make), "longest step")),
    **_of(MATRICES, on_matrices),
    **_of(SEARCHING, searching),
    **_of(["ScheduleFreeAdamW", "ScheduleFreeSGD"], _schedule_free),
    "GaussNewton": damped(eqxopt.GaussNewton, 1e-3, "residuals"),
    "LevenbergMarquardt": damped(eqxopt.LevenbergMarquardt, 1e-3, "residuals"),
    "NewtonCG": damped(eqxopt.NewtonCG, 1e-4, "exact loss"),
    "PolyakSGD": Contender(
        lambda number, steps: eqxopt.PolyakSGD(scaling=cosine(number, steps)),
        "multiplier",
    ),
    "Rprop": Contender(lambda number, steps: eqxopt.Rprop(number), "first step"),
}
VARIANTS: dict[str, Contender] = {
    "SGD, momentum 0.9": Contender(by_rate(eqxopt.SGD, momentum=0.9, nesterov=True)),
    "Muon, consistent_rms 0.2": on_matrices(eqxopt.Muon, consistent_rms=0.2),
    "GaussNewton, grid search": damped(
        eqxopt.GaussNewton, 1e-3, "residuals", linesearch=eqxopt.GridLineSearch()
    ),
    "Cautious(AdamW)": around(eqxopt.Cautious),
    "CompactState(AdamW)": around(
        lambda opt: eqxopt.CompactState(opt, min_size=1), needs="float32"
    ),
    "EMA(AdamW, 0.98)": around(lambda opt: eqxopt.EMA(opt, 0.98)),
    "Lookahead(AdamW)": around(eqxopt.Lookahead),
    "SAM(AdamW)": around(eqxopt.SAM),
    "Mechanic(AdamW)": Contender(
        lambda number, steps: eqxopt.Mechanic(eqxopt.AdamW(cosine(number, steps))),
        "multiplier",
    ),
    "Hyperball(AdamW)": Contender(
        lambda number, steps: eqxopt.Hyperball(
            eqxopt.AdamW(cosine(number, steps), weight_decay=0.0)
        ),
        "learning rate and angle",
        "matrices",
    ),
}
# What all others are compared with is trained first.
CONTENDERS = {"AdamW": PLAIN["AdamW"], **PLAIN, **VARIANTS}


def every_optimizer() -> set[str]:
    """The public optimizers that are no wrappers of others."""
    folders = "_optim", "_matrices", "_curvature"
    return {
        name
        for name in dir(eqxopt)
        if isinstance(cls := getattr(eqxopt, name), type)
        and issubclass(cls, eqxopt.AbstractOptimizer)
        and not name.startswith("Abstract")
        and cls.__module__.split(".")[1] in folders
    }
