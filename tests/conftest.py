"""Strict settings for every test: no implicit promotion, eight CPU devices, no stray warnings.

Compiling is most of a run, so this file makes XLA quick rather than its programs:

- Tests do without XLA's optimizations, and without its newer emitters, which take three times as
  long to compile what the older ones do. Tests marked `optimized` measure what the optimizations
  do, or look at every loss as users compile it, and have them; in a run of these alone
  (``-m optimized``) they have the newer emitters, too.
- Tests of one file, or of one row of the table of losses, share their programs, so they run in one
  worker, one after the other.
- Compiled programs are kept from test to test while there is memory for them.
- Tracing makes many small objects that stay alive, so the garbage collector runs more rarely. It
  took 6 % of the time of `test_losses.py`. Operations do not record the lines that they come from.
"""

import contextlib
import ctypes
import gc
import os
import re
import resource
from collections import Counter

import jax
import pytest

from metricjax import losses

FLAGS = [
    os.environ.get("XLA_FLAGS", ""),
    # Eight devices on a busy core may meet late; XLA would end the process after 40 s.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
QUICK_FLAGS = [
    # Programs are small: dividing one among threads costs more than it saves.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    # Later versions have no older emitters, and end the process at a flag that they do not have.
    QUICK_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
MOST_MEMORY = 2.0 * 2**30
"""Bytes that a worker may hold before it forgets its compiled programs."""

SHARE_NOTHING = (
    "test_adding.py", "test_derivatives.py", "test_examples.py", "test_layouts.py",
    "test_processes.py", "test_training.py",
)  # fmt: skip
"""Files with long tests that have few programs in common, and need not share a worker."""

# Large programs for several CPU devices that come out of JAX's persistent cache can wait for each
# other for ever (jaxlib 0.10.2).
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # for the processes that tests start
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_traceback_in_locations_limit", 0)
gc.set_threshold(100_000, 20, 100)


def pytest_configure(config):
    as_users = config.option.markexpr == "optimized"
    flags = FLAGS if as_users else FLAGS + QUICK_FLAGS
    os.environ["XLA_FLAGS"] = " ".join(flags)  # read when the first program is compiled
    config.pluginmanager.register(_EveryTest())


def _group(nodeid):
    """The tests that share programs: a file's, and of the table of losses those of a row."""
    path, _, name = nodeid.partition("::")
    if path.endswith(SHARE_NOTHING):
        return nodeid
    if not path.endswith("test_losses.py"):
        return path
    return path, *(part for part in re.split(r"[][-]", name) if part in vars(losses))


def pytest_collection_modifyitems(items):
    groups = [_group(item.nodeid) for item in items]
    sizes, order = Counter(groups), {group: i for i, group in enumerate(dict.fromkeys(groups))}

    def place(item):
        """Long tests first, then large groups: what is small evens out the ends of the workers."""
        group, path = _group(item.nodeid), item.nodeid.partition("::")[0]
        return not path.endswith(SHARE_NOTHING), -sizes[group], order[group]

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        """A group goes to one worker. (``--dist=loadgroup`` of pytest-xdist 3.8 does nothing with
        pytest 9.)
        """

        def _split_scope(self, nodeid):
            return str(_group(nodeid))

    config.option.loadscopereorder = False  # or groups of one test would come last
    return Groups(config, log)


class _EveryTest:
    """What holds for doctests, too: hooks of a conftest.py are not called for those of metricjax/,
    those of a plugin are.
    """

    @pytest.hookimpl(tryfirst=True)  # before slow tests are left out
    def pytest_collection_modifyitems(self, items):
        """Examples in docstrings compile one operation at a time."""
        for item in items:
            if isinstance(item, pytest.DoctestItem):
                item.add_marker(pytest.mark.slow)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        as_users = item.get_closest_marker("optimized")
        jax.config.update("jax_disable_most_optimizations", not as_users)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self):
        if _memory() > MOST_MEMORY:
            jax.clear_caches()
            with contextlib.suppress(AttributeError):  # a C library without it
                ctypes.CDLL(None).malloc_trim(0)  # or the system does not get the memory back


def _memory():
    """Bytes that this process holds now; where the system does not say, the most it has held."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
