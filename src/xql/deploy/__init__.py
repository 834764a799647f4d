"""A policy outside of xql: files that NumPy, ONNX Runtime or JAX read, and a service.

`served`, `service` and `client` import no JAX.
"""
