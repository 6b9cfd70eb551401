"""Networks as ONNX files: written, and run without torch."""
