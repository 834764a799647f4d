"""Benchmark data made here, from simulators and behaviour policies."""
