"""Both sides of every row of the migration page compute the same numbers.

Torch is not needed: the page shows its side, and here its formulas are in NumPy.
"""

import pathlib
import re

import jax
import numpy as np
import optax
import pytest

import eqxopt


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migration.md"
TEXT = PAGE.read_text()
RESULTS = ("params", "model", "rate", "average")


@pytest.fixture(autouse=True)
def jax_as_users_have_it(x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def code(section, title):
    found = re.search(rf'```python title="{title}"\n(.*?)```', section, re.DOTALL)
    return found and found[1]


SETUP = code(TEXT, "setup")
SECTIONS = {
    part.split("\n")[0]: part for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)
}
OPTAX = [row for row, section in SECTIONS.items() if code(section, "optax")]
TORCH = [row for row, section in SECTIONS.items() if code(section, "torch")]


def results(row, title, tmp_path):
    """Run one side of a row. If it only makes an optimizer, train with that."""
    namespace = {"path": tmp_path / "checkpoint"}
    exec(SETUP, namespace)
    params, model = namespace["params"], namespace["model"]
    exec(compile(code(SECTIONS[row], title), row, "exec"), namespace)
    if namespace["params"] is params and namespace["model"] is model:
        namespace["params"] = train(namespace)
    return {name: namespace[name] for name in RESULTS if name in namespace}


def train(namespace):
    params = namespace["params"]
    gradients = [
        lambda p, batch=batch: jax.grad(namespace["loss_fn"])(p, batch)
        for batch in namespace["batches"]
    ]
    if "tx" in namespace:
        state = namespace["tx"].init(params)
        for gradient in gradients:
            updates, state = namespace["tx"].update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
    else:
        opt = namespace["opt"].init(params)
        for gradient in gradients:
            params, opt = opt.apply(gradient(params), params)
    return params


def assert_close(got, expected, rtol=1e-9):
    assert got.keys() == expected.keys()
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for x, y in zip(got, expected, strict=True):
        if isinstance(y, jax.Array | np.ndarray):
            assert np.all(np.isfinite(y))
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("row", OPTAX)
def test_optax(row, tmp_path):
    expected = results(row, "optax", tmp_path)
    got = results(row, "eqxopt", tmp_path)
    # `optax.MultiSteps` accumulates in float32, whatever the dtype.
    assert_close(got, expected, 1e-6 if "accumulation" in row else 1e-9)


def sgd(momentum=0.0, nesterov=False, weight_decay=0.0, rate=lambda step: 0.1):
    def update(name, step, g, p, memory):
        g = g + weight_decay * p
        buffer = memory[name] = g + momentum * memory.get(name, 0.0)
        return p - rate(step) * (g + momentum * buffer if nesterov else buffer)

    return update


def adamw(rates=None, decays=None):
    """Torch first multiplies by one minus the rate times the decay, and then steps."""

    def update(name, step, g, p, memory):
        rate = (rates or {}).get(name, 1e-2)
        p = p * (1 - rate * (decays or {}).get(name, 1e-2))
        m, v = memory.get(name, (0.0, 0.0))
        m, v = memory[name] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        t = step + 1
        denominator = np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8
        return p - rate / (1 - 0.9**t) * m / denominator

    return update


def cosine(step):
    """`torch.optim.lr_scheduler.CosineAnnealingLR` in closed form."""
    return 0.01 + 0.5 * (0.1 - 0.01) * (1 + np.cos(np.pi * step / 10))


def warmup_and_steps(step):
    if step < 4:
        return 0.1 * (0.1 + (1 - 0.1) * step / 4)
    return 0.1 * 0.5 ** ((step - 4) // 2)


def clipped(grads):
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    factor = min(1.0, 0.5 / (norm + 1e-6))
    return {name: factor * g for name, g in grads.items()}


FORMULAS = {
    "A step": adamw(),
    "Parameter groups": adamw(
        {"embedding": 1e-3}, {"embedding": 0.1, "weight": 0.1, "bias": 0.0}
    ),
    "Changing the learning rate": sgd(
        momentum=0.9, rate=lambda step: 0.1 if step < 5 else 0.01
    ),
    "Schedulers": sgd(rate=cosine),
    "Schedulers by steps": sgd(rate=warmup_and_steps),
    "Saving and loading": sgd(momentum=0.9),
    "Clipping gradients": sgd(),
    "Weight decay": sgd(momentum=0.9, nesterov=True, weight_decay=0.01),
    "Accumulating gradients": sgd(momentum=0.9),
}


@pytest.mark.parametrize("row", TORCH)
def test_torch(row, tmp_path):
    got = results(row, "eqxopt", tmp_path)
    start = {}
    exec(SETUP, start)
    params = {name: np.asarray(p) for name, p in start["params"].items()}
    every = 4 if row == "Accumulating gradients" else 1
    memory, total = {}, dict.fromkeys(params, 0.0)
    batches = start["batches"][: 10 if row == "Schedulers" else None]
    for step, batch in enumerate(batches):
        grads = jax.grad(start["loss_fn"])(params, batch)
        total = {name: total[name] + np.asarray(g) / every for name, g in grads.items()}
        if step % every == every - 1:
            if row == "Clipping gradients":
                total = clipped(total)
            params = {
                name: FORMULAS[row](name, step // every, total[name], p, memory)
                for name, p in params.items()
            }
            total = dict.fromkeys(params, 0.0)
    rtol = 1e-5 if row == "Clipping gradients" else 1e-9
    assert_close({"params": got["params"]}, {"params": params}, rtol)


def test_every_row_is_compared():
    rows = re.findall(r"^### (.*)$", TEXT, flags=re.MULTILINE)
    assert set(rows) - {"Other names", "Other arguments"} == {*OPTAX, *TORCH}
    assert set(TORCH) == set(FORMULAS)
    for row in (*OPTAX, *TORCH):
        assert code(SECTIONS[row], "eqxopt")


def test_names_exist():
    """Every name in the table exists, in optax or in eqxopt."""
    rows = re.findall(
        r"^\| `(optax[\w.]+)` \| `(eqxopt[\w.]+)` \|$", TEXT, re.MULTILINE
    )
    assert len(rows) > 10
    for names in rows:
        for name in names:
            eval(name, {"optax": optax, "eqxopt": eqxopt})
