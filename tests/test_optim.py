"""Optimizers, the norm of the gradients and schedules, against the textbook in float64; interpreted, too.

The tolerance of a parameter: with u = 2**-24, a step rounds the new value, its settings and some dozen intermediate
numbers, each by up to u of itself and in either direction, and adds that to the errors before; so STEPS steps stay
within STEPS * ERRORS * u of the largest number that a parameter, or what is added to it, has had.
"""
import json
import math

import numpy as np
import pytest
from examples import OPTIMIZERS

from cnn_numba import (
    SGD,
    Adam,
    AdamW,
    BatchNorm1d,
    CosineAnnealingLR,
    ExponentialLR,
    GradientNorm,
    InputError,
    Linear,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    Optimizer,
    ReduceLROnPlateau,
    ReLU,
    RMSprop,
    Sequential,
    StepLR,
    clip_grad_norm_,
    set_execution,
)
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.lanes import LANES
from cnn_numba.kernels.program import Program, in_order

ROUNDING = 2.0**-24
STEPS, ERRORS = 12, 3          # measured: up to 0.7


def network():
    """More than one item of vectors, ends inside a vector, and parameters of one axis with and without their layer."""
    return Sequential(Linear(70, 61), BatchNorm1d(61), ReLU(), Linear(61, 5, bias=False), seed=3)


def gradients(seed, model, steps=STEPS):
    """Numbers for all parameters, of several sizes: as many lists as steps."""
    rng = np.random.default_rng(seed)
    return [[(rng.normal(size=p.value.shape) * 10.0**rng.uniform(-2, 0)).astype(np.float32) for p in model.parameters()]
            for _ in range(steps)]


def put(model, grads):
    for p, grad in zip(model.parameters(), grads, strict=True):
        p.grad[...] = grad


# ---- textbook ------------------------------------------------------------------------------------
def decays_of(model, decay, weights_only):
    return [decay if p.value.ndim > 1 or not weights_only else 0.0 for p in model.parameters()]


def sgd(w, grad, state, decay, t, lr, momentum=0.0, nesterov=False):
    g = grad + decay * w
    state["v"] = momentum * state.get("v", 0) + g
    return w - lr * (g + momentum * state["v"] if nesterov else state["v"])


def rmsprop(w, grad, state, decay, t, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
    g = grad + decay * w
    state["s"] = alpha * state.get("s", 0) + (1 - alpha) * g**2
    state["m"] = alpha * state.get("m", 0) + (1 - alpha) * g
    u = g / (np.sqrt(state["s"] - state["m"]**2 * centered) + eps)
    state["v"] = momentum * state.get("v", 0) + u
    return w - lr * state["v"]


def adam(w, grad, state, decay, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, decoupled=False):
    g = grad if decoupled else grad + decay * w
    w = w - lr * decay * w if decoupled else w
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["s"] = betas[1] * state.get("s", 0) + (1 - betas[1]) * g**2
    return w - lr * (state["m"] / (1 - betas[0]**t)) / (np.sqrt(state["s"] / (1 - betas[1]**t)) + eps)


def adamw(w, grad, state, decay, t, **options):
    return adam(w, grad, state, decay, t, decoupled=True, **options)


RULES = {SGD: sgd, RMSprop: rmsprop, Adam: adam, AdamW: adamw}
cases = pytest.mark.parametrize("kind, options", [
    pytest.param(Optimizer.known[kind], options, id=" ".join([kind, *(f"{k}={value}" for k, value in options.items())]))
    for kind, options in OPTIMIZERS])


def textbook(model, values, kind, options, grads):
    """The values after the steps, and the largest number that was on the way."""
    options = dict(options)
    decay = options.pop("weight_decay", 0.01 if kind is AdamW else 0.0)
    decays = decays_of(model, decay, options.pop("decay_weights_only", False))
    values, states, largest = [v.astype(np.float64) for v in values], [{} for _ in values], 0.0
    for t, step in enumerate(grads, 1):
        before = values
        values = [RULES[kind](*args, t, **options) for args in zip(values, step, states, decays, strict=True)]
        largest = max(largest, *(np.abs(v).max() for v in values),
                      *(np.abs(a - b).max() for a, b in zip(values, before, strict=True)))
    return values, largest


def worst(values, wanted):
    return max(np.abs(a - b).max() for a, b in zip(values, wanted, strict=True))


@cases
def test_steps_are_the_textbooks(kind, options):
    model = network()
    first, grads = [p.value.copy() for p in model.parameters()], gradients(1, model)
    optimizer = kind(model, **options)
    for step in grads:
        put(model, step)
        optimizer.step()
    got = [p.value for p in model.parameters()]
    want, largest = textbook(model, first, kind, options, grads)
    bound = STEPS * ERRORS * ROUNDING * largest
    assert worst(got, want) <= bound
    assert not model.values[np.concatenate(                      # between the parameters
        [np.arange(LANES * len(p.grad_vectors)) >= p.value.size for p in model.parameters()])].any()
    for name, value in options.items():                         # what each option changes is far outside the tolerance
        if name in ("momentum", "lr", "alpha", "betas", "eps", "weight_decay"):
            other = tuple(0.99 * x + 0.001 for x in value) if name == "betas" else 0.9 * value
        else:
            other = not value
        changed, _ = textbook(model, first, kind, options | {name: other}, grads)
        assert worst(got, changed) > bound, name
    late, _ = textbook(model, first, kind, options, grads[1:])
    assert worst(got, late) > bound


@cases
def test_state_goes_on_to_the_same_bits(kind, options):
    """Through JSON for all but the arrays, as in a checkpoint, in an optimizer that was made with other numbers."""
    model = network()
    grads, optimizer = gradients(2, model), kind(model, **options)
    for step in grads[:5]:
        put(model, step)
        optimizer.step()
    state, values = optimizer.state(), model.values.copy()
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == np.float32
        else:
            state[name] = json.loads(json.dumps(value))
    for step in grads[5:]:
        put(model, step)
        optimizer.step()
    wanted = model.values.copy()
    flags = {name: state[name] for name in optimizer.flags}
    other = kind(model, lr=0.5, **flags | ({"momentum": 0.1} if flags.get("nesterov") else {}))
    fresh = other.state()
    for restored in (state, fresh):
        model.values[:] = values
        other.load_state(restored)
        for step in grads[5:]:
            put(model, step)
            other.step()
        assert (model.values.tobytes() == wanted.tobytes()) == (restored is state)
    if kind in (Adam, AdamW):
        other.load_state(state | {"steps": 1})
        assert other.steps == 1
        model.values[:] = values
        put(model, grads[5])
        other.step()
        assert model.values.tobytes() != wanted.tobytes()


@cases
def test_modes_agree_to_the_bit(kind, options):
    modes = [("serial", None), ("parallel", 1), ("parallel", None)] if JIT else [("serial", None)] * 2
    found = []
    for mode, threads in modes:
        set_execution(mode, threads)
        model = network()
        optimizer, norm = kind(model, **options), GradientNorm(model, 0.5)
        program = Program(in_order([*norm.calls(), *optimizer.calls()]))
        for step in gradients(3, model, 4):
            put(model, step)
            program()
        found.append(model.values.tobytes() + norm.norms.tobytes())
    assert len(set(found)) == 1


def test_all_in_one_table_is_step_by_step():
    """Twelve replays of one table with rates of its own per step, against as many steps from Python."""
    steps, batch_size = STEPS, 7
    for kind in (SGD, RMSprop, Adam, AdamW):
        rng = np.random.default_rng(4)
        rates = np.stack([rng.uniform(0.001, 0.01, steps), rng.uniform(0.5, 0.9, steps)], 1)
        model, other = network(), network()
        put(model, gradients(5, model)[0])
        put(other, gradients(5, model)[0])
        batch, norm = np.array([0, batch_size]), GradientNorm(model)
        optimizer, stepwise = kind(model, lr=0.3), kind(other, lr=0.3)
        rate_call = optimizer.param_groups[0].rate_call(rates, batch, batch_size)
        program = Program(in_order([rate_call, *norm.calls(), *optimizer.calls()]))
        for k in range(steps):
            batch[0] = k * batch_size
            program()
            stepwise.lr = float(rates[k, 0])
            if kind in (Adam, AdamW):
                stepwise.betas = float(rates[k, 1]), 0.999
            else:
                stepwise.momentum = float(rates[k, 1])
            stepwise.step()
            assert model.values.tobytes() == other.values.tobytes(), (kind, k)
        assert optimizer.lr == rates[-1, 0]
        assert optimizer.state().keys() == stepwise.state().keys()
        length = np.sqrt((other.grads.astype(np.float64)**2).sum())
        assert norm.norms == pytest.approx([length, steps * length, length, steps], rel=1e-6)


def test_momentum_from_zero_on():
    """As in PyTorch, steps without momentum leave the velocity alone."""
    model = network()
    optimizer = SGD(model, lr=0.1)
    put(model, gradients(6, model)[0])
    optimizer.step()
    assert not optimizer.velocity.any()
    optimizer.momentum = 0.5
    optimizer.step()
    assert (optimizer.velocity == model.grads).all()
    optimizer.step()
    assert (optimizer.velocity == 1.5 * model.grads).all()


def test_decay_spares_parameters_of_one_axis():
    """Exactly: with gradients of zero, decay alone moves weights."""
    model = network()
    for p in model.parameters():
        p.value[...] = 1
    SGD(model, lr=0.5, weight_decay=0.5, decay_weights_only=True).step()
    assert [set(p.value.reshape(-1).tolist()) for p in model.parameters()] == [
        {0.75}, {1.0}, {1.0}, {1.0}, {0.75}]
    SGD(model, lr=0.5, weight_decay=0.5).step()
    assert {0.75**2} == set(model.parameters()[0].value.reshape(-1).tolist())
    assert {0.75} == set(model.parameters()[1].value.tolist())


def test_nan_stays_visible():
    for kind in (SGD, RMSprop, Adam, AdamW):
        model = network()
        model.grads[:] = 1
        model.grads[3] = np.nan
        kind(model, lr=0.1).step()
        assert np.isnan(model.values[3]) and np.isfinite(np.delete(model.values, 3)).all()


@pytest.mark.parametrize("kind", (SGD, RMSprop, Adam, AdamW))
def test_a_network_without_parameters(kind):
    model = Sequential(ReLU())
    kind(model, lr=0.1, decay_weights_only=True).step()
    assert clip_grad_norm_(model, 1.0) == 0


# ---- norm ----------------------------------------------------------------------------------------
def test_norm_of_whole_numbers_is_exact():
    """Squares of up to 3 add up exactly in float32: the only rounding is the root's, in float64."""
    model, rng = network(), np.random.default_rng(7)
    norm, lengths = GradientNorm(model), []
    program = Program(in_order(norm.calls()))
    for most in (2, 3, 1):
        put(model, [rng.integers(-most, most + 1, p.value.shape) for p in model.parameters()])
        grads = model.grads.copy()
        program()
        lengths.append(math.sqrt((grads.astype(np.int64)**2).sum()))
        assert (model.grads == grads).all()
        assert norm.norms.tolist() == [lengths[-1], sum(lengths), max(lengths), len(lengths)]
    norm.reset()
    assert not norm.norms.any()


def test_norm_and_clipping():
    model = network()
    for step in gradients(8, model, 3):
        put(model, step)
        length = math.sqrt(sum((g.astype(np.float64)**2).sum() for g in step))
        for most in (0.3 * length, 3 * length, math.inf, 0.0):
            put(model, step)
            got = clip_grad_norm_(model, most)
            assert got == pytest.approx(length, rel=20 * ROUNDING)
            factor = min(1, most / (length + 1e-6))
            for p, grad in zip(model.parameters(), step, strict=True):
                assert np.abs(p.grad - factor * grad.astype(np.float64)).max() <= 22 * ROUNDING * np.abs(grad).max()
                assert (p.grad == grad).all() == (most > length)
        assert length != pytest.approx(max(np.abs(g).max() for g in step), rel=0.1)


def test_norm_shows_nan():
    model = network()
    norm = GradientNorm(model, 1.0)
    program = Program(in_order(norm.calls()))
    model.grads[7] = np.nan
    program()
    assert np.isnan(norm.norms[:3]).all() and np.isnan(model.grads).all()
    model.grads[:] = 1
    program()
    assert np.isfinite(norm.norms[0]) and np.isnan(norm.norms[1:3]).all() and norm.norms[3] == 2


# ---- schedules -----------------------------------------------------------------------------------
def make_optimizer(kind=SGD, **options):
    return kind(Sequential(Linear(2, 2)), lr=0.4, **options)


SCHEDULES = [
    (LinearLR, dict(start_factor=0.25, total_iters=3), [0.1, 0.2, 0.3, 0.4, 0.4]),
    (StepLR, dict(step_size=2, gamma=0.5), [0.4, 0.4, 0.2, 0.2, 0.1]),
    (MultiStepLR, dict(milestones=[3, 1, 3], gamma=0.5), [0.4, 0.2, 0.2, 0.05, 0.05]),
    (ExponentialLR, dict(gamma=0.5), [0.4, 0.2, 0.1, 0.05, 0.025]),
    (CosineAnnealingLR, dict(T_max=2, eta_min=0.2), [0.4, 0.3, 0.2, 0.3, 0.4]),
    (OneCycleLR, dict(max_lr=1.0, total_steps=5, pct_start=0.6, anneal_strategy="linear", div_factor=2,
                      final_div_factor=5), [0.5, 0.75, 1.0, 0.55, 0.1]),
]


@pytest.mark.parametrize("kind, options, wanted", SCHEDULES, ids=[kind.__name__ for kind, *_ in SCHEDULES])
def test_schedules_by_hand(kind, options, wanted):
    optimizer = make_optimizer()
    scheduler = kind(optimizer, **options)
    assert scheduler.per == ("step" if kind is OneCycleLR else "epoch")
    table, found = scheduler.rates(5), []
    for step in range(5):
        found.append(optimizer.lr)
        assert scheduler.get_last_lr() == [optimizer.lr]
        assert table[step].tolist() == [optimizer.lr, optimizer.momentum]
        if step < 4:
            scheduler.step()
    assert found == pytest.approx(wanted, rel=1e-12)
    assert table.dtype == np.float64 and scheduler.rates(1).tolist() == table[4:].tolist()
    assert scheduler.rates(0).shape == (0, 2)
    assert (scheduler.get_last_lr()[0], scheduler.last_epoch) == (found[-1], 4)

    ahead = kind(make_optimizer(), **options)
    ahead.advance(3)
    assert (ahead.optimizer.lr, ahead.optimizer.momentum) == (found[3], pytest.approx(float(table[3, 1])))
    restored = kind(make_optimizer(), **options)
    restored.load_state(json.loads(json.dumps(ahead.state())))
    restored.step()
    assert restored.optimizer.lr == found[4]


def test_one_cycle_momentum_by_hand():
    options = dict(max_lr=1.0, total_steps=5, pct_start=0.6, anneal_strategy="linear", base_momentum=0.5,
                   max_momentum=0.9)
    wanted = pytest.approx([0.9, 0.7, 0.5, 0.7, 0.9], rel=1e-6)
    assert OneCycleLR(make_optimizer(), **options).rates(5)[:, 1] == wanted
    adam = make_optimizer(Adam, betas=(0.1, 0.99))
    assert OneCycleLR(adam, **options).rates(5)[:, 1] == wanted
    assert adam.betas == (0.9, 0.99)
    still = make_optimizer(momentum=0.3)
    assert (OneCycleLR(still, **options, cycle_momentum=False).rates(5)[:, 1] == 0.3).all()
    assert still.momentum == 0.3


def test_one_cycle_at_its_edges():
    """A phase of no steps is at its end, where PyTorch divides by zero; after the last step nothing changes."""
    scheduler = OneCycleLR(make_optimizer(), max_lr=1.0, total_steps=10, pct_start=0.1, anneal_strategy="linear")
    assert scheduler.get_last_lr() == [1.0]
    scheduler.advance(9)
    last = scheduler.optimizer.lr
    assert last == pytest.approx(1 / 25 / 1e4)
    scheduler.step()
    assert scheduler.optimizer.lr == last
    for beyond in (scheduler.step, lambda: scheduler.rates(1)):
        with pytest.raises(InputError, match="has 10 steps, got step 11"):
            beyond()
    assert scheduler.last_epoch == 10
    by_epochs = OneCycleLR(make_optimizer(), max_lr=1.0, epochs=3, steps_per_epoch=4)
    assert by_epochs.total_steps == 12
    with pytest.raises(InputError, match="12 steps, got a state of 13"):
        by_epochs.load_state({"last_epoch": 13, "base_lr": 0.1})


def test_plateau_by_hand():
    optimizer = make_optimizer()
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1, min_lr=0.15)
    found = []
    for metric in (1.0, 0.9, 0.95, math.nan, 0.95, 0.95, 0.95, 0.95, 0.95):
        state = json.loads(json.dumps(scheduler.state()))
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1, min_lr=0.15)
        scheduler.load_state(state)
        scheduler.step(metric)
        found.append(optimizer.lr)
        assert scheduler.get_last_lr() == [optimizer.lr]
    assert found == [0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.15, 0.15, 0.15]


# ---- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize("make, word", [
    (lambda m: SGD("model", lr=0.1), "expected the model itself or its parameters.., got str"),
    (lambda m: SGD(m, lr=True), "lr must be a number"),
    (lambda m: SGD(m, lr=0.1, nesterov=True), "nesterov needs a momentum"),
    (lambda m: SGD(m, lr=0.1, momentum=0.1, nesterov=1), "nesterov must be True or False"),
    (lambda m: SGD(m, lr=0.1, decay_weights_only=None), "decay_weights_only must be True or False"),
    (lambda m: RMSprop(m, alpha=1.5), "RMSprop: alpha must be a number from 0 to 1, got 1.5"),
    (lambda m: RMSprop(m, eps=-1), "eps"),
    (lambda m: RMSprop(m, momentum=math.nan), "momentum"),
    (lambda m: RMSprop(m, weight_decay=-1), "weight_decay"),
    (lambda m: RMSprop(m, centered="no"), "centered must be True or False"),
    (lambda m: Adam(m, betas=(0.9, 1.0)), "betas must be less than 1"),
    (lambda m: Adam(m, betas=(-0.1, 0.9)), "betas must be a number from 0"),
    (lambda m: Adam(m, betas=0.9), "betas must be two numbers, got 0.9"),
    (lambda m: Adam(m, betas=(0.9,)), "betas must be two numbers"),
    (lambda m: AdamW(m, weight_decay="1"), "AdamW: weight_decay"),
    (lambda m: Adam(m, lr=math.inf), "Adam: lr"),
    (lambda m: clip_grad_norm_(m, -1), "clip_grad_norm_: max_norm must be a number from 0"),
    (lambda m: clip_grad_norm_([m], 1), "expected the model itself or its parameters.., got Sequential"),
    (lambda m: GradientNorm(m, math.nan), "GradientNorm: max_norm"),
    (lambda m: StepLR(m, 3), "StepLR: expected an optimizer, got Sequential"),
    (lambda m: ReduceLROnPlateau(m), "ReduceLROnPlateau: expected an optimizer, got Sequential"),
])
def test_wrong_arguments(make, word):
    with pytest.raises(InputError, match=word):
        make(network())


@pytest.mark.parametrize("make, word", [
    (lambda o: LinearLR(o, start_factor=0), "start_factor must be more than 0"),
    (lambda o: LinearLR(o, start_factor=1.5), "start_factor"),
    (lambda o: LinearLR(o, end_factor=-1), "end_factor"),
    (lambda o: LinearLR(o, total_iters=0), "total_iters"),
    (lambda o: StepLR(o, 0), "step_size"), (lambda o: StepLR(o, 2, gamma=-1), "gamma"),
    (lambda o: MultiStepLR(o, 3), "milestones must be a list"),
    (lambda o: MultiStepLR(o, [1, -3]), "a milestone must be a whole number"),
    (lambda o: MultiStepLR(o, [1], gamma="x"), "gamma"),
    (lambda o: ExponentialLR(o, math.nan), "gamma"),
    (lambda o: CosineAnnealingLR(o, 0), "T_max"), (lambda o: CosineAnnealingLR(o, 5, -1), "eta_min"),
    (lambda o: OneCycleLR(o, 1.0), "needs total_steps, or epochs and steps_per_epoch"),
    (lambda o: OneCycleLR(o, 1.0, epochs=3), "needs total_steps, or epochs and steps_per_epoch"),
    (lambda o: OneCycleLR(o, 1.0, 0), "total_steps"),
    (lambda o: OneCycleLR(o, 1.0, epochs=0, steps_per_epoch=1), "epochs"),
    (lambda o: OneCycleLR(o, -1.0, 5), "max_lr"), (lambda o: OneCycleLR(o, 1.0, 5, pct_start=2), "pct_start"),
    (lambda o: OneCycleLR(o, 1.0, 5, anneal_strategy="sin"), "anneal_strategy must be 'cos' or 'linear', got 'sin'"),
    (lambda o: OneCycleLR(o, 1.0, 5, cycle_momentum=1), "cycle_momentum"),
    (lambda o: OneCycleLR(o, 1.0, 5, max_momentum=1), "max_momentum must be less than 1"),
    (lambda o: OneCycleLR(o, 1.0, 5, base_momentum=-1), "base_momentum"),
    (lambda o: OneCycleLR(o, 1.0, 5, div_factor=0), "div_factor must be more than 0"),
    (lambda o: OneCycleLR(o, 1.0, 5, final_div_factor=0), "final_div_factor must be more than 0"),
    (lambda o: OneCycleLR(o, 1.0, 5, three_phase=0), "three_phase"),
    (lambda o: OneCycleLR(o, 1.0, 5).rates(-1), "count"),
    (lambda o: ReduceLROnPlateau(o, mode="least"), "mode must be 'min' or 'max', got 'least'"),
    (lambda o: ReduceLROnPlateau(o, factor=1), "factor must be less than 1"),
    (lambda o: ReduceLROnPlateau(o, patience=-1), "patience"),
    (lambda o: ReduceLROnPlateau(o, threshold=-1), "threshold"),
    (lambda o: ReduceLROnPlateau(o, threshold_mode="share"), "threshold_mode must be 'rel' or 'abs'"),
    (lambda o: ReduceLROnPlateau(o, cooldown=0.5), "cooldown"), (lambda o: ReduceLROnPlateau(o, min_lr=-1), "min_lr"),
    (lambda o: ReduceLROnPlateau(o, eps=-1), "eps"),
    (lambda o: ReduceLROnPlateau(o).step("0.5"), "the metric must be a number, got '0.5'"),
    (lambda o: ReduceLROnPlateau(o).load_state({"best": 1}), "exactly last_epoch, best"),
    (lambda o: ReduceLROnPlateau(o).load_state(ReduceLROnPlateau(o).state() | {"best": "1"}), "best"),
    (lambda o: ReduceLROnPlateau(o).load_state(ReduceLROnPlateau(o).state() | {"last_epoch": -1}), "last_ep"),
    (lambda o: StepLR(o, 3).load_state([]), "exactly last_epoch, base_lr"),
    (lambda o: StepLR(o, 3).load_state({"last_epoch": 1, "base_lr": -1}), "base_lr"),
    (lambda o: StepLR(o, 3).load_state({"last_epoch": 1.5, "base_lr": 1}), "last_epoch"),
])
def test_wrong_schedules(make, word):
    with pytest.raises(InputError, match=word):
        make(make_optimizer())


@pytest.mark.parametrize("kind, change, word", [
    (SGD, {"velocity": None}, "velocity must be a float32 array"),
    (SGD, {"velocity": np.zeros(3, np.float32)}, "velocity must be a float32 array of shape"),
    (SGD, {"momentum": "0.9"}, "momentum"), (SGD, {"nesterov": True}, "nesterov True, expected False"),
    (SGD, {"decay_weights_only": 0}, "decay_weights_only 0, expected False"),
    (SGD, {"x": 1}, "exactly lr, momentum"), (RMSprop, {"centered": True}, "centered True, expected False"),
    (RMSprop, {"alpha": 2}, "alpha"), (Adam, {"betas": [0.9, "x"]}, "betas"), (Adam, {"steps": -1}, "steps"),
    (Adam, {"steps": 2.5}, "steps"), (Adam, {"steps": 2**63}, "less than 2..63"),
    (AdamW, {"exp_avg": [0]}, "exp_avg must be a float32 array"),
])
def test_states_that_do_not_fit(kind, change, word):
    optimizer = kind(network(), lr=0.1)
    before = optimizer.state()
    with pytest.raises(InputError, match=word):
        optimizer.load_state(before | {"lr": 0.2} | change)
    assert optimizer.lr == 0.1
