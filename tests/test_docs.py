"""The code in the documentation runs."""

import inspect
import json
import pathlib
import re
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest

import eqxopt
from eqxopt import schedules


ROOT = pathlib.Path(__file__).parents[1]
# The rows of the migration page have a test of their own.
PAGES = [
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "```python\n" in path.read_text() and path.name != "migration.md"
]


def reader():
    """What a page takes for granted: a model, data and a loss."""
    params = {"embedding": jnp.ones(2), "blocks": jnp.ones(3), "head": jnp.ones(2)}
    batches = jax.random.normal(jax.random.key(0), (3, 2))
    model = eqx.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(1))

    def loss_fn(params, batch):
        head = jnp.broadcast_to(params["head"], batch.shape)
        return jnp.sum(jnp.square(head - batch))

    return {
        "eqx": eqx,
        "eqxopt": eqxopt,
        "jax": jax,
        "jnp": jnp,
        "model": model,
        "params": params,
        "batches": batches,
        "rows": jax.random.normal(jax.random.key(2), (64, 2)),
        "key": jax.random.key(3),
        "loss_fn": loss_fn,
        "loss": jnp.array(1.0),
        "grads": eqx.filter(model, eqx.is_inexact_array),
        "opt": eqxopt.AdamW(1e-3).init(model),
        # They stand for TensorBoard's and for Weights & Biases.
        "writer": mock.Mock(),
        "wandb": mock.Mock(),
    }


def shown(page):
    """The text of a page, with the parts of files that it shows."""

    def section(match):
        text = (ROOT / match[1]).read_text()
        start, end = (f"# --8<-- [{at}:{match[2]}]\n" for at in ("start", "end"))
        return text.partition(start)[2].partition(end)[0]

    text = (ROOT / page).read_text()
    return re.sub(r'--8<-- "([\w/.]+):(\w+)"', section, text)


# A number, such as of a loss, may differ with another JAX. Everything else may not.
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")


def assert_similar(printed, shown):
    words = lambda text: " ".join(NUMBER.sub("#", text).split())
    assert words(printed) == words(shown)
    numbers = lambda text: [float(x) for x in NUMBER.findall(text)]
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.3, abs=0.02)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, monkeypatch, tmp_path, capsys):
    """All code of a page runs, in order, and prints the text that is right below it."""
    monkeypatch.chdir(tmp_path)  # for the files that a page saves
    # The hook is on already.
    monkeypatch.setattr(
        jaxtyping, "install_import_hook", lambda *_: pytest.MonkeyPatch.context()
    )
    namespace = reader()
    pattern = r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?"
    blocks = re.findall(pattern, shown(page), re.DOTALL)
    assert blocks
    with jax.numpy_dtype_promotion("standard"):
        for block, output in blocks:
            capsys.readouterr()
            exec(compile(block, page, "exec"), namespace)
            if output:
                assert_similar(capsys.readouterr().out, output)
    if page == "docs/index.md":
        assert namespace["loss"] < 0.1


def test_search_splits_code_into_names():
    config = (ROOT / "mkdocs.yml").read_text()
    separator = re.search(r"separator: '(.*)'\n", config)[1].replace("''", "'")
    for page in [*PAGES, "docs/migration.md"]:
        text = (ROOT / page).read_text()
        words = set(re.split(separator, text))
        for code in re.findall(r"```python.*?```", text, re.DOTALL):
            assert words >= set(re.findall(r"\b[A-Za-z]\w+", code))


def public(module, base):
    """The public classes below `base` that are not abstract."""
    found = [getattr(module, name) for name in dir(module)]
    classes = [x for x in found if inspect.isclass(x) and issubclass(x, base)]
    return [x for x in classes if not x.__name__.startswith("Abstract")]


def test_counts_in_prose():
    changes = (ROOT / "CHANGELOG.md").read_text()
    readme = (ROOT / "README.md").read_text()
    optimizers = [
        cls
        for cls in public(eqxopt, eqxopt.AbstractOptimizer)
        if re.search(r"\._(optim|matrices|curvature)\.", cls.__module__)
    ]
    count = f"{len(optimizers)} optimizers"
    assert count in readme and count in changes
    assert all(f"`{cls.__name__}`" in changes for cls in optimizers)
    count = len(public(schedules, schedules.AbstractSchedule))
    assert f"{count} schedules" in changes


def test_measured_ratios_in_prose():
    parts = json.loads((ROOT / "docs/pictures/benchmarks.json").read_text())
    figures = [f for x in parts.values() for f in x["figures"] if "ratio" in f]
    ratios = {f["what"]: f["ratio"] for f in figures}
    cpu = [f for name, x in parts.items() if "gpu" not in name for f in x["figures"]]
    on_cpu = {f["what"]: f["ratio"] for f in cpu if "ratio" in f}
    training = (ROOT / "docs" / "training.md").read_text()
    shown = {
        "your own loop with `opt.apply` in an `eqx.filter_jit`": "plain loop",
        "[`make_step`][eqxopt.make_step]": "make_step",
        "[`fit`][eqxopt.fit]": "fit, data in memory, 1000 steps",
    }
    for name, what in shown.items():
        ratio = f"{ratios[f'60 leaves, a step: {what}']:.2f}"
        assert f"| {name} | {ratio} |" in training
    readme = (ROOT / "README.md").read_text()
    large = [f"{name}, 67.1M entries" for name in ("AdamW", "Lion", "Adafactor")]
    for cell, names in {
        "a step of 60 arrays, in the usual loop | 1": ["60 leaves, a step: plain loop"],
        "the same with `make_step` |": ["60 leaves, a step: make_step"],
        "the same with `fit` |": ["60 leaves, a step: fit, data in memory, 1000 steps"],
        "a step of 600 arrays: tracing | 1": ["600 leaves: trace and lower"],
        "`Muon` on 48 matrices | 1": ["Muon, 12 layers of 4 matrices: run"],
        "one of 67 million entries: `AdamW`, `Lion`, `Adafactor` | 1": large,
    }.items():
        shown_ratios = ", ".join(f"{on_cpu[name]:.2f}" for name in names)
        assert f"| {cell} | {shown_ratios} |" in readme
    home = (ROOT / "docs" / "index.md").read_text()
    assert "takes 0.6 of the time" in home and "0.11 in a long [`fit`]" in home


def snake(name):
    """`NoisySGD` and `noisy_sgd` alike."""
    return name.replace("_", "").lower().removesuffix("schedule")


def test_other_arguments():
    """The migration page names each argument of optax that has another name here."""
    table = (ROOT / "docs" / "migration.md").read_text().partition("### Other arg")[2]
    rows = [row.split(" | ") for row in re.findall(r"^\| `.*$", table, re.MULTILINE)]
    theirs = {
        snake(name): getattr(module, name)
        for module in (optax, optax.contrib)
        for name in dir(module)
        if inspect.isfunction(getattr(module, name))
    }
    ours = [
        *public(eqxopt, eqxopt.AbstractTransform),
        *public(schedules, schedules.AbstractSchedule),
    ]
    for cls in ours:
        name = cls.__name__
        if snake(name) in theirs and cls.__module__.split(".")[1] != "_wrapper":
            missing = set(inspect.signature(theirs[snake(name)]).parameters)
            missing -= set(inspect.signature(cls).parameters)
            listed = [row[1] for row in rows if f"`{name}`" in row[0]]
            known = set(re.findall(r"\w+", " ".join(listed)))
            assert missing <= known, (name, missing - known)
