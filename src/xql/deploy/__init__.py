"""A policy outside of xql: files that NumPy, ONNX Runtime or JAX read without a run folder."""

from xql.deploy.exporting import FORMATS, Format, export

__all__ = ["FORMATS", "Format", "export"]
