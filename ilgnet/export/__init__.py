"""Export of trained nets to ONNX."""
