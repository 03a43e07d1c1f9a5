"""The same gradients, rates and metrics in PyTorch.

With u = 2**-24: both sides round their settings and every intermediate number, in orders of their own, by u of itself
per operation, so that STEPS steps differ by at most STEPS * PARITY * u of the largest number that a parameter has had
or a step has added.  Rates are float64 on both sides; PyTorch multiplies them up step by step.
"""
import itertools
import warnings

import numpy as np
import pytest
from examples import of_the_library
from pytorch import array, one_thread_each, torch  # noqa: F401

import cnn_numba
from cnn_numba import (
    SGD,
    Adam,
    BatchNorm1d,
    Linear,
    OneCycleLR,
    Optimizer,
    ReduceLROnPlateau,
    ReLU,
    RMSprop,
    Sequential,
    clip_grad_norm_,
    lr_scheduler,
)
from cnn_numba.kernels.program import Program, in_order

ROUNDING = 2.0**-24
STEPS, PARITY = 15, 2           # measured: up to 0.5
RATES = 1e-12                   # relative; PyTorch's products of up to 60 ratios: measured up to 6e-15


def network(seed):
    """Weights, biases, scales and shifts of random sizes."""
    a, b = map(int, np.random.default_rng(seed).integers(1, 90, 2))
    return Sequential(Linear(a, b), BatchNorm1d(b), ReLU(), Linear(b, 7), seed=seed)


def mirror(model):
    return [torch.nn.Parameter(torch.from_numpy(p.value.copy())) for p in model.parameters()]


def put(model, others, rng):
    """The same random gradients on both sides."""
    for p, other in zip(model.parameters(), others, strict=True):
        p.grad[...] = rng.normal(size=p.value.shape) * 10.0**rng.uniform(-2, 0)
        other.grad = torch.from_numpy(p.grad.copy())


def groups(parameters, weight_decay):
    """Parameters of one axis without decay."""
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0}]


def distance(model, mine, others, theirs, rng, steps=STEPS):
    """The largest difference after the steps, in u of the largest number there was, per step."""
    largest = 0.0
    for _ in range(steps):
        put(model, others, rng)
        before = model.values.copy()
        mine.step()
        theirs.step()
        largest = max(largest, np.abs(model.values).max(), np.abs(model.values - before).max())
    pairs = zip(model.parameters(), others, strict=True)
    return max(np.abs(p.value - array(q)).max() for p, q in pairs) / (steps * ROUNDING * largest)


GRIDS = {
    "SGD": dict(lr=[0.1], momentum=[0.0, 0.9], weight_decay=[0.0, 0.05], nesterov=[False, True]),
    "RMSprop": dict(lr=[0.01], alpha=[0.99, 0.7], eps=[1e-8, 1e-3], weight_decay=[0.0, 0.05], momentum=[0.0, 0.8],
                    centered=[False, True]),
    "Adam": dict(lr=[1e-3, 0.05], betas=[(0.9, 0.999), (0.6, 0.8), (0.0, 0.5)], eps=[1e-8, 1e-2],
                 weight_decay=[0.0, 0.05]),
    "AdamW": dict(lr=[1e-3, 0.05], betas=[(0.9, 0.999), (0.6, 0.8)], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.05]),
}


def test_every_optimizer_of_the_library_is_compared():
    assert GRIDS.keys() == of_the_library(Optimizer).keys()


def options_of(name):
    for values in itertools.product(*GRIDS[name].values()):
        options = dict(zip(GRIDS[name], values, strict=True))
        if options.get("nesterov") and not options["momentum"]:
            continue
        if options.get("centered") and options["eps"] == 1e-8:
            continue            # the first steps divide by the root of a difference of nearly equal numbers
        yield options


@pytest.mark.parametrize("weights_only", (False, True))
@pytest.mark.parametrize("name", GRIDS)
def test_steps_are_pytorchs(name, weights_only):
    for seed, options in enumerate(options_of(name)):
        model = network(seed)
        others = mirror(model)
        decay = options["weight_decay"]
        theirs = getattr(torch.optim, name)(groups(others, decay) if weights_only else others, **options)
        mine = getattr(cnn_numba, name)(model, **options, decay_weights_only=weights_only)
        found = distance(model, mine, others, theirs, np.random.default_rng(seed))
        assert found < PARITY, (options, found)


@pytest.mark.parametrize("name", GRIDS)
def test_defaults_are_pytorchs(name):
    model = network(1)
    others = mirror(model)
    mine, theirs = getattr(cnn_numba, name)(model), getattr(torch.optim, name)(others)
    state = mine.state()
    for setting in [*mine.settings, *mine.flags]:
        if setting not in ("steps", "decay_weights_only"):
            assert state[setting] == theirs.defaults[setting], setting
    assert distance(model, mine, others, theirs, np.random.default_rng(2)) < PARITY


@pytest.mark.parametrize("name, mine, theirs", (
    ("SGD", dict(lr=0.1, momentum=0.9), dict(nesterov=True)),
    ("SGD", dict(lr=0.1, weight_decay=0.05, decay_weights_only=True), dict()),
    ("RMSprop", dict(eps=1e-3), dict(centered=True)), ("RMSprop", dict(alpha=0.99), dict(alpha=0.989)),
    ("Adam", dict(lr=0.1), dict(betas=(0.9, 0.998))), ("Adam", dict(lr=0.1, eps=1e-3), dict(eps=1.01e-3)),
    ("AdamW", dict(lr=0.1, weight_decay=0.1), dict(weight_decay=0.101)),
))
def test_negative_control(name, mine, theirs):
    """What differs in one setting does not pass."""
    model = network(3)
    others = mirror(model)
    options = {key: value for key, value in mine.items() if key != "decay_weights_only"} | theirs
    optimizer = getattr(cnn_numba, name)(model, **mine)
    other = getattr(torch.optim, name)(others, **options)
    assert distance(model, optimizer, others, other, np.random.default_rng(3)) > 4 * PARITY


def test_settings_changed_on_the_way():
    """lr, momentum and betas as of the next step; momentum from 0 on starts with the gradient, as in PyTorch."""
    for name, setting, values in (("SGD", "momentum", (0.0, 0.0, 0.9, 0.5)),
                                  ("RMSprop", "alpha", (0.9, 0.99, 0.5, 0.9)),
                                  ("Adam", "betas", ((0.9, 0.99), (0.8, 0.99), (0.95, 0.999), (0.9, 0.9))),
                                  ("AdamW", "weight_decay", (0.0, 0.1, 0.0, 0.3))):
        model, rng = network(4), np.random.default_rng(4)
        others = mirror(model)
        mine, theirs = getattr(cnn_numba, name)(model, lr=0.1), getattr(torch.optim, name)(others, lr=0.1)
        for k, value in enumerate(values):
            setattr(mine, setting, value)
            mine.lr = 0.1 / (k + 1)
            theirs.param_groups[0].update({setting: value, "lr": 0.1 / (k + 1)})
            assert distance(model, mine, others, theirs, rng, steps=3) < PARITY * (k + 1), (name, value)


@pytest.mark.parametrize("share", (0.1, 0.999, 1.5, np.inf, 0.0))
def test_clipping_is_pytorchs(share):
    """A float32 sum of squares on both sides: 20 roundings."""
    model, rng = network(5), np.random.default_rng(5)
    others = mirror(model)
    put(model, others, rng)
    most = share * float(np.sqrt((model.grads.astype(np.float64)**2).sum()))
    wanted = torch.nn.utils.clip_grad_norm_(others, most)
    assert clip_grad_norm_(model, most) == pytest.approx(float(wanted), rel=20 * ROUNDING)
    for p, q in zip(model.parameters(), others, strict=True):
        assert np.abs(p.grad - q.grad.numpy()).max() <= 24 * ROUNDING * np.abs(p.grad).max()
        assert not p.grad.any() if share == 0 else np.abs(p.grad - 1.001 * q.grad.numpy()).max() > 1e-4 * p.grad.max()


# ---- schedules -----------------------------------------------------------------------------------
@pytest.fixture
def without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)            # a schedule without updates
        yield


def pair(name="SGD", **options):
    """An optimizer and PyTorch's."""
    model = Sequential(Linear(2, 2))
    options = {"lr": 0.3} | options
    return (getattr(cnn_numba, name)(model, **options),
            getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(3))], **options))


def settings(optimizer):
    """lr, and momentum or first beta."""
    return optimizer.lr, optimizer.betas[0] if hasattr(optimizer, "betas") else optimizer.momentum


def torch_settings(optimizer):
    group = optimizer.param_groups[0]
    return group["lr"], group["betas"][0] if "betas" in group else group["momentum"]


SCHEDULES = [
    ("LinearLR", {}), ("LinearLR", dict(start_factor=0.1, end_factor=0.7, total_iters=37)),
    ("LinearLR", dict(start_factor=1.0, end_factor=0.0, total_iters=50)),
    ("StepLR", dict(step_size=6, gamma=0.3)), ("StepLR", dict(step_size=1)),
    ("MultiStepLR", dict(milestones=[30, 7, 7, 55])), ("MultiStepLR", dict(milestones=[0, 4], gamma=0.5)),
    ("MultiStepLR", dict(milestones=[])),
    ("ExponentialLR", dict(gamma=0.93)), ("ExponentialLR", dict(gamma=1.01)),
    ("CosineAnnealingLR", dict(T_max=60)), ("CosineAnnealingLR", dict(T_max=17, eta_min=0.02)),
]
CYCLES = [
    {}, dict(pct_start=0.2, anneal_strategy="linear"), dict(three_phase=True),
    dict(three_phase=True, anneal_strategy="linear", pct_start=0.4, div_factor=5.0, final_div_factor=100.0),
    dict(base_momentum=0.6, max_momentum=0.8), dict(cycle_momentum=False), dict(pct_start=0.0), dict(pct_start=1.0),
]


@pytest.mark.usefixtures("without_warnings")
@pytest.mark.parametrize("name, options", SCHEDULES, ids=lambda x: str(x))
def test_schedules_are_pytorchs(name, options):
    mine, theirs = pair()
    scheduler = getattr(lr_scheduler, name)(mine, **options)
    other = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    table, wanted = scheduler.rates(61), []
    for _ in range(60):
        wanted.append(theirs.param_groups[0]["lr"])
        assert mine.lr == pytest.approx(wanted[-1], rel=RATES, abs=1e-16)
        assert scheduler.get_last_lr() == pytest.approx(other.get_last_lr(), rel=RATES, abs=1e-16)
        scheduler.step()
        other.step()
    assert table[:60, 0] == pytest.approx(np.array(wanted), rel=ROUNDING, abs=1e-16)
    if len(set(wanted)) > 1:
        assert table[1:, 0] != pytest.approx(np.array(wanted), rel=1e-4, abs=1e-16), "a step late does not pass"


@pytest.mark.usefixtures("without_warnings")
@pytest.mark.parametrize("kind", ("SGD", "RMSprop", "Adam", "AdamW"))
@pytest.mark.parametrize("options", CYCLES, ids=lambda x: str(x))
def test_one_cycle_is_pytorchs(kind, options):
    mine, theirs = pair(kind)
    scheduler = OneCycleLR(mine, 0.7, total_steps=60, **options)
    other = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.7, total_steps=60, **options)
    table, wanted = scheduler.rates(60), []
    for k in range(60):
        wanted.append(torch_settings(theirs))
        assert settings(mine) == pytest.approx(wanted[-1], rel=RATES)
        if k < 59:
            scheduler.step()
            other.step()
    assert table == pytest.approx(np.array(wanted), rel=ROUNDING)
    assert table[:-1] != pytest.approx(np.array(wanted)[1:], rel=1e-4), "a step late does not pass"
    ahead = OneCycleLR(pair(kind)[0], 0.7, epochs=4, steps_per_epoch=15, **options)
    ahead.advance(20)
    assert (ahead.rates(40) == table[20:]).all()
    assert settings(ahead.optimizer) == pytest.approx(wanted[20], rel=RATES)


@pytest.mark.parametrize("options", [
    dict(zip(("mode", "threshold_mode", "threshold", "patience", "cooldown", "min_lr"), values, strict=True))
    for values in itertools.product(("min", "max"), ("rel", "abs"), (1e-4, 0.05), (0, 3), (0, 2), (0.0, 0.03))])
def test_plateau_is_pytorchs(options):
    rng = np.random.default_rng(6)
    mine, theirs = pair()
    options = options | {"factor": 0.5}
    scheduler = ReduceLROnPlateau(mine, **options)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    metric, seen = 2.0, set()
    for k in range(60):
        metric *= rng.uniform(0.9, 1.08) if options["mode"] == "min" else rng.uniform(0.93, 1.1)
        given = np.nan if k == 20 else metric
        scheduler.step(given)
        other.step(given)
        seen.add(mine.lr)
        assert mine.lr == theirs.param_groups[0]["lr"]
        assert scheduler.get_last_lr() == other.get_last_lr()
        assert (scheduler.num_bad_epochs, scheduler.cooldown_counter) == (other.num_bad_epochs, other.cooldown_counter)
    assert len(seen) > 1, "the rate was to be reduced"


@pytest.mark.usefixtures("without_warnings")
@pytest.mark.parametrize("kind", (SGD, RMSprop, Adam))
def test_a_training_with_one_cycle_in_one_table(kind):
    """Rates and momenta as a float32 table on one side, step by step in float64 on the other: each rounds by u, which
    a step passes on times its length."""
    model, rng = network(7), np.random.default_rng(7)
    others = mirror(model)
    mine, theirs = kind(model, lr=0.1), getattr(torch.optim, kind.__name__)(others, lr=0.1)
    scheduler = OneCycleLR(mine, 0.02, total_steps=20)
    other = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.02, total_steps=20)
    batch = np.array([0, 8])
    program = Program(in_order([mine.param_groups[0].rate_call(scheduler.rates(20), batch, 8), *mine.calls()]))
    for k in range(19):
        batch[0] = 8 * k
        put(model, others, rng)
        program()
        theirs.step()
        other.step()
    scheduler.advance(19)
    assert settings(mine) == pytest.approx(torch_settings(theirs), rel=RATES)
    pairs = zip(model.parameters(), others, strict=True)
    worst = max(np.abs(p.value - array(q)).max() for p, q in pairs)
    assert worst < 19 * PARITY * ROUNDING * np.abs(model.values).max()
