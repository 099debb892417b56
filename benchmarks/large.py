"""One large parameter: a step is bound by memory, and donated buffers are reused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import eqxopt

from .timing import Figure, interleaved


def large_array(side: int, *, bar: float) -> list[Figure]:
    """Donated steps, with the bytes a second that they move; and a copy of the array,
    as the measure of what the memory can do."""
    pairs = {
        "AdamW": (eqxopt.AdamW(1e-3), optax.adamw(1e-3), 7),
        "Lion": (eqxopt.Lion(1e-3), optax.lion(1e-3), 5),
        "SGD, momentum": (eqxopt.SGD(1e-3, 0.9), optax.sgd(1e-3, 0.9), 5),
        "Adafactor": (eqxopt.Adafactor(1e-3), optax.adafactor(1e-3), None),
        "LAMB": (eqxopt.LAMB(1e-3), optax.lamb(1e-3), None),
    }
    size = 4 * side * side
    what = f"{side * side / 1e6:.1f}M entries"
    grads = jax.random.normal(jax.random.key(0), (side, side))
    # In the memory of the array itself, as the steps do it.
    copy = carried(lambda params, state, grads: (-params, state), grads, (), grads)
    figures = [interleaved(f"copy, {what}", copy, copy, bytes_moved=2 * size)]
    for name, (opt, tx, passes) in pairs.items():
        params = jax.random.normal(jax.random.key(1), (side, side))
        ours = carried(
            lambda params, opt, grads: opt.apply(grads, params),
            params,
            opt.init(params),
            grads,
        )

        def their_step(params, state, grads, tx=tx):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        theirs = carried(their_step, params, tx.init(params), grads)
        figures.append(
            interleaved(
                f"{name}, {what}",
                ours,
                theirs,
                bar=bar,
                bytes_moved=passes and passes * size,
                repeats=40,
            )
        )
        del ours, theirs, params
    return figures + torch_fused(side, grads)


def torch_fused(side: int, grads: jax.Array) -> list[Figure]:
    """PyTorch's fused AdamW as the peer, where it is installed, on the same device."""
    try:
        import torch
    except ImportError:
        return []
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    param = torch.nn.Parameter(torch.randn(side, side, device=device))
    param.grad = torch.randn(side, side, device=device)
    peer = torch.optim.AdamW([param], lr=1e-3, fused=True)

    def their_step():
        peer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    params = jax.random.normal(jax.random.key(1), (side, side))
    ours = carried(
        lambda params, opt, grads: opt.apply(grads, params),
        params,
        eqxopt.AdamW(1e-3).init(params),
        grads,
    )
    moved = 7 * 4 * side * side
    what = f"AdamW beside torch, {side * side / 1e6:.1f}M entries"
    return [interleaved(what, ours, their_step, bytes_moved=moved, repeats=40)]


def carried(step: Callable, params: Any, state: Any, grads: Any) -> Callable[[], Any]:
    """A call that makes one donated step from where the last one ended."""
    compiled = jax.jit(step, donate_argnums=(0, 1))
    carry = jax.tree.map(lambda x: jnp.array(x, copy=True), (params, state))

    def run() -> Any:
        nonlocal carry
        carry = compiled(*carry, grads)
        return carry[0]

    return run
