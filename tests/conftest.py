"""Settings that every test shares."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
