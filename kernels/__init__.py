"""Nukkad's own operators for ONNX Runtime: decoders and encoders in whole numbers, written in C."""
