"""Settings that every test shares."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

# As the command line does on 2 cores, and before any test can fix the number by using JAX:
# populations are then spread over two devices, whichever test comes first.
jax.config.update("jax_num_cpu_devices", 2)
