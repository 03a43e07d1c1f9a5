"""onnxruntime, which runs the network that `export` writes: it classifies images, and trains nothing."""
import numpy as np
import onnxruntime

import cnn_numba as nn
from cnn_numba.benchmark import contender, networks
from cnn_numba.errors import InputError
from cnn_numba.inspection.timing import median_call
from cnn_numba.interchange.onnx_export import OPSET, export_graph
from cnn_numba.interchange.onnx_graph import serialized


class Contender(contender.Contender):
    def load(self, **source):
        super().load(**source)
        self.x = contender.standardised(self.data)

    def build(self, network, batch_size):
        """The network for normalised images, from its description, with the first weights."""
        model = nn.Sequential(*networks.make(network), seed=0).eval()
        model.takes_images(self.data.train_images.shape[1:])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.session = onnxruntime.InferenceSession(
            serialized(export_graph(model, OPSET, logits=True, raw=True), "network", ""), options,
            providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def outputs(self, x):
        """The logits, which are the one output."""
        return self.session.run(None, {self.input: x})[0]

    def epoch(self):
        raise InputError("it does not train")

    def loss(self):
        first = slice(contender.CHECKED)
        logits = self.outputs(self.x[first]).astype(np.float64)
        return float(nn.CrossEntropyLoss()(logits, self.data.train_labels[first]))

    def predict(self, batch_size):
        for first in range(0, len(self.x), batch_size):
            self.outputs(self.x[first:first + batch_size]).argmax(1)

    def latency(self, images, seconds):
        x = self.x[:images]
        return {"": median_call(lambda: self.outputs(x), seconds)}
