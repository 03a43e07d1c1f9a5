"""Models that are exported, and what the programs that read ONNX compute from them."""
import numpy as np
from networks import make

from cnn_numba import Sequential

CLOSE = 1e-5                    # of the largest number


def trained(layers, shape, seed=1):
    """A model in evaluation mode that knows its images, with biases and statistics as after a training."""
    rng = np.random.default_rng(seed)
    model = Sequential(*make(layers), seed=seed).eval()
    state = model.state_dict()
    for name, values in state.items():
        if values.ndim == 1:
            state[name] = rng.uniform(0.5, 1.5, values.shape) * (1 if "var" in name else rng.choice([-1, 1]))
    model.load_state_dict(state)
    model.input_shape = shape
    model.mean, model.std = (np.array(values, np.float32) for values in (
        np.arange(1, shape[0] + 1) / 4, np.arange(2, shape[0] + 2) / 8))
    return model


def distance(got, want):
    """The largest difference, of the largest number."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.abs(got - want).max() / (np.abs(want).max() or 1)


def runtimes():
    """{name: function(bytes of a file, {input: array}) -> output} of the programs that are installed."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    found = {"evaluator": lambda content, feed: ReferenceEvaluator(onnx.load_from_string(content)).run(None, feed)[0]}
    try:
        import onnxruntime
    except ImportError:
        return found
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return found | {"onnxruntime": lambda content, feed: onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]).run(None, feed)[0]}
