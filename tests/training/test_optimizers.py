"""Every optimizer against torch's own or its published formulas in float64."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ipcl_jax.config import Optim
from ipcl_jax.training import optim

STEPS = 30
Tree = dict[str, np.ndarray]


def task(options: Optim) -> tuple[Tree, Tree, np.ndarray, np.ndarray]:
    """A start, what each step draws the parameters to, and its learning rate (from a hundredth of the
    options' up) and momentum.

    All are float32 numbers, so that every precision starts from the same.
    """
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 4), "kernel": (7, 5), "bias": (5,), "scale": (4,)}

    def exact(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(float)

    start = {name: exact(rng.normal(size=shape)) for name, shape in shapes.items()}
    goals = {name: exact(rng.normal(size=(STEPS, *shape))) for name, shape in shapes.items()}
    rates, momenta = rng.uniform(options.lr / 100, options.lr, STEPS), rng.uniform(0.8, 0.95, STEPS)
    return start, goals, exact(rates), exact(momenta)


def ours(options: Optim, dtype: type) -> Tree:
    """Our parameters after 30 jitted steps; a gradient is what lies between parameter and goal."""
    start, goals, rates, momenta = task(options)
    params = {name: jnp.asarray(value, dtype) for name, value in start.items()}
    state = optim.make_optimizer(options, 0.0, 0.0).init(params)

    @jax.jit
    def step(params, state, goal, rate, momentum):
        grads = jax.tree.map(lambda p, g: p - g, params, goal)
        updates, state = optim.make_optimizer(options, rate, momentum).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(STEPS):
        goal = {name: value[i].astype(dtype) for name, value in goals.items()}
        params, state = step(params, state, goal, dtype(rates[i]), dtype(momenta[i]))
    assert step._cache_size() == 1 and all(p.dtype == dtype for p in params.values())
    return jax.device_get(params)


def decay_of(p: np.ndarray | torch.Tensor, options: Optim) -> float:
    return options.weight_decay if options.decay_norms or p.ndim > 1 else 0.0


# --- the references ----------------------------------------------------------------------


def by_formula(rule: Callable) -> Callable[[Optim], Tree]:
    """A reference from `rule(p, g, state, k, lr, m, wd) -> p`, in which state is an array's own dict."""

    def run(options: Optim) -> Tree:
        start, goals, rates, momenta = task(options)
        params, states = dict(start), {name: {} for name in start}
        for k in range(STEPS):
            for name, p in params.items():
                g, wd = p - goals[name][k], decay_of(p, options)
                params[name] = rule(p, g, states[name], k, rates[k], momenta[k], wd)
        return params

    return run


def by_torch(kind: type, beta2: float | None = None, **fixed) -> Callable[[Optim], Tree]:
    """A reference from an optimizer of torch; beta2 for those whose momentum is one of two betas."""

    def run(options: Optim) -> Tree:
        start, goals, rates, momenta = task(options)
        params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
        groups = [{"params": [p], "weight_decay": decay_of(p, options)} for p in params.values()]
        optimizer = kind(groups, lr=1.0, **fixed)
        for k in range(STEPS):
            for name, p in params.items():
                p.grad = p.detach() - torch.from_numpy(goals[name][k])
            m = momenta[k]
            for group in optimizer.param_groups:
                group["lr"] = rates[k]
                group.update({"momentum": m} if beta2 is None else {"betas": (m, beta2)})
            optimizer.step()
        return {name: p.detach().numpy() for name, p in params.items()}

    return run


def madgrad(p, g, state, k, lr, m, wd):
    """Defazio & Jelassi 2021, algorithm 1, with the authors' weight decay (in the gradient) and lr + eps."""
    eps = 1e-6
    if not state:
        state.update(first=p, s=np.zeros_like(p), v=np.zeros_like(p))
    g, rate = g + wd * p, (lr + eps) * math.sqrt(k + 1)
    state["s"] = state["s"] + rate * g
    state["v"] = state["v"] + rate * g * g
    z = state["first"] - state["s"] / (state["v"] ** (1 / 3) + eps)
    return p * m + z * (1 - m)


def lars(p, g, state, k, lr, m, wd, paper=False):
    """You et al. 2017, algorithm 1, with the norm of the decayed gradient unless `paper`."""
    local = 1.0
    if p.ndim > 1:
        norm = np.linalg.norm
        local = 0.001 * norm(p) / (norm(g) + wd * norm(p) if paper else norm(g + wd * p))
    state["v"] = m * state.get("v", 0.0) + lr * local * (g + wd * p)
    return p - state["v"]


def radam(p, g, state, k, lr, m, wd, raw_epsilon=False):
    """Liu et al. 2020, algorithm 2, rectified from length 5 instead of 4 as in Ranger and torch, and with
    decoupled weight decay. Epsilon joins the root of the corrected second moment, or with `raw_epsilon`
    of the raw one.
    """
    t, beta2, eps = k + 1, 0.999, 1e-5
    state["m"] = m * state.get("m", 0.0) + (1 - m) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    move, known = state["m"] / (1 - m**t), 1 - beta2**t
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / known
    if length > 5:
        rectify = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        root = np.sqrt(state["v"])
        root = (root + eps) / math.sqrt(known) if raw_epsilon else root / math.sqrt(known) + eps
        move = move * math.sqrt(rectify) / root
    return p - lr * (move + wd * p)


def ranger(p, g, state, k, lr, m, wd):
    """Zhang et al. 2019, algorithm 1, around `radam`, with Ranger's k = 6 and alpha = 0.5."""
    slow = state.setdefault("slow", p)
    p = radam(p, g, state, k, lr, m, wd)
    if (k + 1) % 6 == 0:
        p = state["slow"] = slow + 0.5 * (p - slow)
    return p


# --- the trajectories --------------------------------------------------------------------

REFERENCES = {
    "sgd": by_torch(torch.optim.SGD),
    "madgrad": by_formula(madgrad),
    "lars": by_formula(lars),
    "adamw": by_torch(torch.optim.AdamW, beta2=0.999),
    "radam_lookahead": by_formula(ranger),
}


def some(name: str, **more) -> Optim:
    """Options with weight decay, and with a highest learning rate such as the optimizer is used with."""
    return Optim(name=name, lr=0.01 if "adam" in name else 0.1, weight_decay=0.1, **more)


def errors(found: Tree, expected: Tree, start: Tree) -> tuple[float, float]:
    """Largest error as a share of an array's largest value, and of the longest way that one of it went."""
    way = {name: np.abs(value - start[name]).max() for name, value in expected.items()}
    error = {name: np.abs(found[name] - value).max() for name, value in expected.items()}
    assert min(way.values()) > 1e-3  # they went somewhere (LARS a thousandth as far as the others)
    of_value = max(error[name] / np.abs(value).max() for name, value in expected.items())
    return of_value, max(error[name] / way[name] for name in expected)


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("name", REFERENCES)
def test_thirty_steps(name, decay_norms):
    options = some(name, decay_norms=decay_norms)
    start, expected = task(options)[0], REFERENCES[name](options)
    of_value, of_way = errors(ours(options, np.float32), expected, start)
    # Roundings of 6e-8 carried along by the momentum give 1e-7 to 1e-6 of a value (4e-5 of the short way
    # of LARS). In AdamW and RAdam, Optax takes 1 - 0.999^t in float32, which is 1e-5 off, and RAdam's
    # rectification by 0.6 % at the sixth step: 1e-6 and 5e-6 of a value, 9e-6 and 6e-4 of the way.
    assert of_value < 1e-5
    assert of_way < 1e-3
    with jax.enable_x64(True):
        _, of_way = errors(ours(options, np.float64), expected, start)
        # The same roundings in float64; only MADGRAD's root of the step number is Optax's, in float32.
        assert of_way < (1e-7 if name == "madgrad" else 1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_norms_can_be_spared_weight_decay(name):
    everything, matrices = (ours(some(name, decay_norms=on), np.float32) for on in (True, False))
    for key in ("conv", "kernel"):
        np.testing.assert_array_equal(everything[key], matrices[key])
    for key in ("bias", "scale"):
        assert np.abs(everything[key] - matrices[key]).max() > 1e-3


def test_the_references_radam_is_torchs():
    options = some("radam_lookahead")
    formula = by_formula(functools.partial(radam, raw_epsilon=True))(options)
    kind = functools.partial(torch.optim.RAdam, decoupled_weight_decay=True)
    for name, expected in by_torch(kind, beta2=0.999, eps=1e-5)(options).items():
        np.testing.assert_allclose(formula[name], expected, rtol=0, atol=1e-13)  # float64 roundings


def test_lars_differs_from_its_paper():
    # The norm of a sum instead of the sum of norms: larger steps, by up to the share of weight decay in
    # the gradient. Parameters that are not adapted are not touched by it.
    options = some("lars")
    start, paper = task(options)[0], by_formula(functools.partial(lars, paper=True))(options)
    found = ours(options, np.float32)
    for name in ("conv", "kernel"):
        assert np.abs(found[name] - paper[name]).max() > 0.01 * np.abs(paper[name] - start[name]).max()
    for name in ("bias", "scale"):
        np.testing.assert_allclose(found[name], paper[name], rtol=0, atol=1e-6)  # as above


def test_slow_weights_move_with_each_sixth_step():
    options = Optim(name="radam_lookahead")
    optimizer = optim.make_optimizer(options, 0.1, 0.9)
    params = start = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    state = optimizer.init(params)
    for step in range(1, 13):
        updates, state = optimizer.update(params, state, params)  # of |p|^2 / 2
        before, params = params, optax.apply_updates(params, updates)
        slow = optax.tree_utils.tree_get(state, "slow")
        if step % 6 == 0:
            # They meet half-way, up to a rounding of each.
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7), slow, params)
            start = slow
        else:
            jax.tree.map(np.testing.assert_array_equal, slow, start)
            assert (params["bias"] < before["bias"]).all() and (params["bias"] < slow["bias"]).all()


def test_a_gradient_is_clipped_before_all_else():
    for name in REFERENCES:
        options = some(name, clip_norm=1.0)
        params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        clipped, short = ({"kernel": jnp.full((2, 2), x), "bias": jnp.zeros(2)} for x in (50.0, 0.5))
        optimizer = optim.make_optimizer(options, 0.1, 0.9)
        states = [optimizer.update(grads, optimizer.init(params), params) for grads in (clipped, short)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *states)  # a float32 norm
