"""Engines run a network: torch, ONNX Runtime, OpenVINO. Exports for other programs are here too."""
