"""Moved images against float64 loops of NumPy that draw their own random numbers, and in a trainer."""
import math

import numpy as np
import pytest
from batches import EPOCH, PLAIN, SEED, gathered, moved
from random_numbers import splitmix
from trainings import StopAfter, dataset, network, normalised, optimizer_of

from cnn_numba import Augment, CrossEntropyLoss, InputError, Trainer, set_execution
from cnn_numba.init import ORDER, stream
from cnn_numba.kernels import batch
from cnn_numba.kernels.augment import gather_warped, transforms
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.program import Call, Program, in_order
from cnn_numba.kernels.random import AUGMENT

CLOSE = 1e-3            # of pixels up to 255: places in such images are right to some 1e-6; measured: 3e-4


def made_up(dtype=np.uint8, images=40, shape=(3, 7, 9), seed=0):
    """Images without a dark pixel."""
    return np.random.default_rng(seed).integers(1, 256, (images, *shape)).astype(dtype)


def drawn(augment, count, draw=(SEED, EPOCH)):
    """What is drawn for the images 0 .. count - 1: rows, columns, radians, factor, whether it is flipped."""
    k = np.arange(max(count, 5), dtype=np.uint64)
    key = splitmix(splitmix(np.array(draw[:1], np.uint64), k[[draw[1]]]), k[[AUGMENT]])
    u = (splitmix(splitmix(key, k[:count])[:, None], k[:5]) >> np.uint64(11)).T * 2.0**-53
    down, right = (np.floor(u[k] * (2 * augment.shift + 1)).astype(int) - augment.shift for k in range(2))
    return (down, right, np.radians(augment.rotate) * (2 * u[2] - 1), 1 + augment.scale * (2 * u[3] - 1),
            (u[4] < 0.5) & augment.flip)


def warped(image, down, right, angle, factor, flipped):
    """One image (C, H, W), moved: each pixel of the result asks where it comes from."""
    C, H, W = image.shape
    if flipped:
        image = image[:, :, ::-1]
    image = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((C, H, W))
    for i, j in np.ndindex(H, W):
        y, x = i - down - (H - 1) / 2, j - right - (W - 1) / 2
        # by the angle counter-clockwise as one sees it, where rows go down
        row = (math.cos(angle) * y + math.sin(angle) * x) / factor + (H - 1) / 2
        col = (math.cos(angle) * x - math.sin(angle) * y) / factor + (W - 1) / 2
        p, q = math.floor(row), math.floor(col)
        for a, b in ((p, q), (p, q + 1), (p + 1, q), (p + 1, q + 1)):
            if -1 <= a <= H and -1 <= b <= W:
                out[:, i, j] += (1 - abs(row - a)) * (1 - abs(col - b)) * image[:, a + 1, b + 1]
    return out


def shifted(image, down, right, flipped):
    """The same for whole pixels, by slices."""
    C, H, W = image.shape
    canvas = np.zeros((C, 3 * H, 3 * W), image.dtype)
    canvas[:, H + down:2 * H + down, W + right:2 * W + right] = image[:, :, ::-1] if flipped else image
    return canvas[:, H:2 * H, W:2 * W]


# ---- the kernels --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", (np.uint8, np.float32))
@pytest.mark.parametrize("text", ("shift=1", "shift=3", "flip", "shift=2,flip"))
def test_shifts_and_flips_copy_pixels(text, dtype):
    augment, images = Augment.parse(text), made_up(dtype)
    down, right, _, _, flipped = drawn(augment, len(images))
    want = np.stack([shifted(*each) for each in zip(images, down, right, flipped, strict=True)])
    got = moved(augment, images)[:len(images)]
    assert np.array_equal(got, want)
    assert not np.array_equal(got, images)
    if augment.shift:
        assert not np.array_equal(got, np.stack([shifted(*each) for each in zip(images, right, down, flipped,
                                                                                strict=True)]))


@pytest.mark.parametrize("dtype", (np.uint8, np.float32))
@pytest.mark.parametrize("shape", ((3, 7, 9), (1, 8, 8), (2, 12, 5)))
@pytest.mark.parametrize("text", ("rotate=30", "rotate=180", "scale=0.4", "shift=2,rotate=15,scale=0.2,flip"))
def test_rotations_and_scales_interpolate(text, shape, dtype):
    augment, images = Augment.parse(text), made_up(dtype, 20, shape)
    each = list(zip(images, *drawn(augment, len(images)), strict=True))
    got = moved(augment, images, mean=PLAIN[0][:shape[0]], scale=PLAIN[1][:shape[0]])[:len(images)]
    assert np.abs(got - np.stack([warped(*one) for one in each])).max() < CLOSE
    wrong = {"other way": lambda image, d, r, a, f, flip: warped(image, d, r, -a, 1 / f, flip),
             "half a pixel off": lambda image, d, r, a, f, flip: warped(image, d + 0.5, r, a, f, flip)}
    for what, function in wrong.items():
        assert np.abs(got - np.stack([function(*one) for one in each])).max() > 1000 * CLOSE, what


@pytest.mark.parametrize("text", ("shift=2,flip", "shift=1,rotate=20"))
def test_normalised_by_channel_with_zeros_past_the_end(text):
    """Beyond the edges too, where the raw pixel is 0; lanes past the batch hold 0, and those past `lanes` what was
    there."""
    augment, images, order = Augment.parse(text), made_up(), np.arange(21)
    mean, scale = np.array([100, 0, 7.5], np.float32), np.array([0.5, 1, 0.25], np.float32)
    got, raw = moved(augment, images, order, mean, scale), moved(augment, images, order)
    want = (raw[:21] - mean[:, None, None]) * scale[:, None, None]
    assert np.array_equal(got[:21], want) and not got[21:].any()
    few = moved(augment, images, order[:3], mean, scale, lanes=5)
    assert np.array_equal(few[:3], want[:3]) and not few[3:5].any() and (few[5:] == -1).all()


@pytest.mark.parametrize("dtype", (np.uint8, np.float32))
def test_interpolation_that_moves_nothing_is_the_plain_batch(dtype):
    """To the bit."""
    images, order = made_up(dtype), np.random.default_rng(1).permutation(40)
    mean, scale = np.array([100, 0, 7.5], np.float32), np.array([0.3, 1, 0.7], np.float32)
    x, y = (aligned((3, 3, 7, 9, LANES)) for _ in range(2))
    window, moves, padded = np.array([2, 37]), np.zeros((3, LANES, 6), np.float32), np.zeros((3, 10, 12), np.float32)
    gathering = dict(images=images, order=order, batch=window, mean=mean, scale=scale, lanes=LANES)
    plain = gathered([Call(batch.gather, 3, x=x, **gathering)], x, 48)
    same = gathered([Call(transforms, 3, out=moves, order=order, batch=window, draw=np.array([1, 2]),
                          ranges=np.zeros(4), rows=7, columns=9),
                     Call(gather_warped, 3, x=y, padded=padded, **gathering, moves=moves)], y, 48)
    assert np.array_equal(plain, same) and plain.any()
    assert not Augment() and not Augment(0, 0.0, 0.0, False) and Augment(flip=True) and Augment(scale=0.1)


@pytest.mark.parametrize("text", ("shift=3", "shift=3,rotate=1e-9"))
def test_a_shift_never_wraps(text):
    """The outermost pixels are bright; what comes in is dark."""
    images = np.zeros((64, 3, 7, 9), np.uint8)
    images[:, :, [0, -1]] = images[:, :, :, [0, -1]] = 200
    got = moved(Augment.parse(text), images)
    down, right, *_ = drawn(Augment(shift=3), 64)
    for image, d, r in zip(got, down, right, strict=True):
        dark = np.concatenate([image[:, :max(d, 0)].ravel(), image[:, 7 + min(d, 0):].ravel(),
                               image[:, :, :max(r, 0)].ravel(), image[:, :, 9 + min(r, 0):].ravel()])
        assert np.abs(dark).max(initial=0) < 1e-3
    assert {*down} == {*right} == {*range(-3, 4)}


@pytest.mark.parametrize("text", ("shift=2,flip", "shift=2,rotate=10,scale=0.1,flip"))
def test_an_image_moves_alike_in_any_batch(text):
    """In any order and any lane; but otherwise in another epoch, and with another seed."""
    augment, images = Augment.parse(text), made_up()
    want = moved(augment, images)[:40]
    order = np.random.default_rng(2).permutation(40)
    assert np.array_equal(moved(augment, images, order)[:40], want[order])
    assert np.array_equal(moved(augment, images, order[7:10])[:3], want[order[7:10]])
    for draw in (SEED, EPOCH + 1), (SEED + 1, EPOCH):
        other = moved(augment, images, draw=draw)[:40]
        assert np.mean([np.array_equal(a, b) for a, b in zip(other, want, strict=True)]) < 0.2


def test_what_is_drawn_is_uniform_and_independent():
    """From the transforms that the kernel makes of 4096 images of 1 x 1 pixels, to five standard errors."""
    count, shift, angle, scale = 4096, 2, math.radians(40), 0.3
    moves = np.zeros((count // LANES, LANES, 6), np.float32)
    call = Call(transforms, len(moves), out=moves, order=np.arange(count), batch=np.array([0, count]),
                draw=np.array([9, 1]), ranges=np.array([shift, angle, scale, 0.5]), rows=1, columns=1)
    Program(in_order([call]))()
    a, b, r, c, d, s = moves.reshape(count, 6).astype(np.float64).T
    size = 1 / np.hypot(a, b)
    flipped = a * d - b * c < 0
    back = np.linalg.solve(np.stack([np.stack([a, b], 1), np.stack([c, d], 1)], 1), -np.stack([r, s], 1)[:, :, None])
    down, right = np.rint(back[:, :, 0]).T
    assert np.abs(back[:, :, 0].T - [down, right]).max() < 1e-5
    for moved_by in down, right:
        counts = np.bincount((moved_by + shift).astype(int), minlength=5)
        assert len(counts) == 5 and ((counts - count / 5)**2).sum() / (count / 5) < 4 + 5 * np.sqrt(8)
    turned = np.arctan2(b, a)
    fractions = {"down": (down + 2.5) / 5, "right": (right + 2.5) / 5, "angle": turned / angle / 2 + 0.5,
                 "size": (size - 1) / scale / 2 + 0.5, "flip": flipped}
    for what in "angle", "size":
        u = fractions[what]
        assert -1e-6 <= u.min() < 0.005 and 0.995 < u.max() <= 1 + 1e-6, what
        assert abs(u.mean() - 1 / 2) < 5 / np.sqrt(12 * count), what
        assert abs((u**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / count), what
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    together = np.corrcoef(list(fractions.values())) - np.eye(5)
    assert np.abs(together).max() < 5 / np.sqrt(count)
    neighbours = [np.corrcoef(u[1:], u[:-1])[0, 1] for u in fractions.values()]
    assert np.abs(neighbours).max() < 5 / np.sqrt(count)


# ---- in a trainer -------------------------------------------------------------------------------------------------
def trainer_of(model, data, augment, **options):
    return Trainer(model, data, optimizer_of(model), batch_size=16, seed=SEED, augment=augment, **options)


@pytest.mark.parametrize("text", ("shift=1,flip", "shift=1,rotate=10,scale=0.1"))
def test_epochs_are_the_loop_of_the_library_on_moved_images(text):
    """To the bit, batches of 16 and the last of 6."""
    data, model, other, augment = dataset(train=70), network(), network(), Augment.parse(text)
    trainer, optimizer = trainer_of(model, data, augment), optimizer_of(other)
    for epoch in range(2):
        trainer.epoch()
        order = stream(SEED, ORDER, epoch).permutation(70)
        images = moved(augment, data.train_images, mean=PLAIN[0][:2], scale=PLAIN[1][:2], draw=(SEED, epoch))[:70]
        for first in range(0, 70, 16):
            chosen = order[first:first + 16]
            optimizer.zero_grad()
            CrossEntropyLoss()(other(normalised(data, images[chosen])), data.train_labels[chosen]).backward()
            optimizer.step()
    assert np.array_equal(model.values, other.values)


@pytest.mark.skipif(not JIT, reason="interpreted, there is one way to run")
@pytest.mark.parametrize("mode", (
    ("parallel", 1),
    pytest.param(("parallel", 2), marks=pytest.mark.skipif(max_threads() < 2, reason="one processor only")),
))
def test_serial_and_parallel_train_the_same_bits(mode):
    found = []
    for how in ("serial",), mode:
        set_execution(*how)
        model = network()
        trainer_of(model, dataset(train=70), Augment(1, 10, 0.1, True)).fit(1)
        found.append(model.values.copy())
    assert np.array_equal(*found)


def test_evaluation_moves_nothing():
    data, model = dataset(), network()
    plain, augmented = trainer_of(model, data, None), trainer_of(model, data, Augment(2, 20, 0.2, True))
    want = plain.evaluate(data.test_images, data.test_labels)
    got = augmented.evaluate(data.test_images, data.test_labels)
    assert got.loss == want.loss and np.array_equal(got.predictions, want.predictions)


def test_nothing_to_move_is_the_plain_training():
    models = [network() for _ in range(3)]
    for model, augment in zip(models, (None, Augment(), Augment(shift=1)), strict=True):
        trainer_of(model, dataset(), augment).fit(1)
    assert np.array_equal(models[0].values, models[1].values)
    assert not np.array_equal(models[0].values, models[2].values)


def test_a_training_goes_on_between_two_steps():
    """Another trainer goes on with the same moves."""
    data, augment, models = dataset(train=70), Augment(1, 10), [network() for _ in range(3)]
    whole, begun, goes_on = (trainer_of(model, data, augment) for model in models)
    whole.fit(2)
    begun.fit(1)
    begun.fit(2, StopAfter(3))
    assert begun.epochs == 1 and 0 < begun.step < 5
    goes_on.load_state(begun.state())
    goes_on.fit(2)
    assert np.array_equal(models[0].values, models[2].values)


# ---- the text -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, want", (
    ("none", Augment()),
    ("shift=2", Augment(shift=2)),
    ("shift=2,rotate=10,flip", Augment(2, 10.0, 0.0, True)),
    ("rotate=7.5,scale=0.1", Augment(rotate=7.5, scale=0.1)),
    ("shift=1,rotate=1e-05,scale=0.25,flip", Augment(1, 1e-5, 0.25, True)),
))
def test_text_there_and_back(text, want):
    augment = Augment.parse(text)
    assert augment == want and str(augment) == text == str(Augment.parse(str(want)))


def test_spaces_and_any_order_are_fine():
    assert str(Augment.parse(" flip, rotate = 10.0,shift=2")) == "shift=2,rotate=10,flip"
    assert str(Augment(np.int64(2), np.float64(10))) == "shift=2,rotate=10"


@pytest.mark.parametrize("text, what", (
    ("", "'' is not one of shift, rotate, scale, flip"),
    ("shift=2,", "'' is not one of"),
    ("turn=2", "'turn' is not one of shift, rotate, scale, flip"),
    ("shift", "shift must be a whole number, as in shift=2, got 'shift'"),
    ("shift=1.5", "shift must be a whole number, as in shift=2, got 'shift=1.5'"),
    ("rotate=much", "rotate must be a number, as in rotate=10, got 'rotate=much'"),
    ("flip=1", "flip takes no value, got 'flip=1'"),
    ("shift=1,shift=2", "shift occurs twice in 'shift=1,shift=2'"),
    ("shift=-1", "shift must be a whole number of at least 0, got -1"),
    ("rotate=181", "rotate must be a number from 0 to 180, got 181"),
    ("rotate=nan", "rotate must be a number from 0 to 180, got nan"),
    ("scale=1", "scale must be a number from 0 to 0.99, got 1"),
    ("none,flip", "'none' is not one of"),
))
def test_bad_text(text, what):
    with pytest.raises(InputError, match=what) as error:
        Augment.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make, what", (
    (lambda: Augment(shift=True), "shift"), (lambda: Augment(rotate="a"), "rotate"), (lambda: Augment(flip=1), "flip"),
    (lambda: trainer_of(network(), dataset(), "flip"), "augment must be an Augment, got 'flip'"),
    (lambda: trainer_of(network(), dataset(), Augment(shift=8)), "shift=8 moves images of 8x8 pixels .* most 7"),
    (lambda: trainer_of(network(), dataset(), Augment(shift=10**30, rotate=1)), "out of sight"),
))
def test_bad_arguments(make, what):
    with pytest.raises(InputError, match=what):
        make()
