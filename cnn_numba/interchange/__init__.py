"""Models in the formats of other programs: ONNX and safetensors, which need a package each."""
