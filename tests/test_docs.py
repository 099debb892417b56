"""The code in the documentation runs."""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import eqxopt


ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    "README.md",
    *(
        f"docs/{p}.md"
        for p in (
            "index",
            "hyperparameters",
            "training",
            "optimizers/lbfgs",
            "optimizers/matrices",
            "optimizers/schedule_free",
            "composition/index",
            "composition/transforms",
            "composition/wrappers",
            "interop",
            "writing",
        )
    ),
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
        "jax": jax,
        "jnp": jnp,
        "model": model,
        "params": params,
        "batches": batches,
        "rows": jax.random.normal(jax.random.key(2), (64, 2)),
        "key": jax.random.key(3),
        "loss_fn": loss_fn,
        "grads": eqx.filter(model, eqx.is_inexact_array),
        "opt": eqxopt.AdamW(1e-3).init(model),
    }


def shown(page):
    """The text of a page, with the parts of files that it shows."""

    def section(match):
        text = (ROOT / match[1]).read_text()
        start, end = (f"# --8<-- [{at}:{match[2]}]\n" for at in ("start", "end"))
        return text.partition(start)[2].partition(end)[0]

    text = (ROOT / page).read_text()
    return re.sub(r'--8<-- "([\w/.]+):(\w+)"', section, text)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, monkeypatch):
    # The hook is on already.
    monkeypatch.setattr(
        jaxtyping, "install_import_hook", lambda *_: pytest.MonkeyPatch.context()
    )
    namespace = reader()
    blocks = re.findall(r"```python\n(.*?)```", shown(page), re.DOTALL)
    assert blocks
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, page, "exec"), namespace)
    if page == "docs/index.md":
        assert namespace["loss"] < 0.1
