"""Strict settings for every test: no implicit promotion, eight CPU devices, no stray warnings.

Compiling is most of a run, so most tests do without XLA's optimizations; `optimized` brings them
back for those that measure what they do. The parity tests are compiled as users compile.
"""

import os

import jax
import pytest

# Eight devices on a busy core may meet late; XLA would end the process after 40 s.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
)
# Large programs for several CPU devices that come out of JAX's persistent cache can wait for each
# other for ever (jaxlib 0.10.2).
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # for the processes that tests start
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def _quick_compilation(request):
    parity = "parity" in request.node.nodeid
    quick = not parity and "optimized" not in request.fixturenames
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    """Compiled programs are not kept from file to file: they add up to gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized():
    """For tests of compiled memory: XLA's usual optimizations."""
