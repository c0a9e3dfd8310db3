"""Packages of registries as folders, by the registries' own clients."""

import importlib
import shutil
import subprocess
import tarfile


def npm(package, folder):
    """Downloads a package of npm, such as ``name@1.0.0``, and returns the folder of its files."""
    (name,) = _run(folder, "Node.js", "npm", "pack", "--silent", package).split()
    target = folder / name.removesuffix(".tgz")
    with tarfile.open(folder / name) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def debian(package, folder):
    """Downloads a package of Debian, and returns the folder of its files."""
    _run(folder, "a Debian system with its package lists", "apt-get", "-qq", "download", package)
    (file,) = folder.glob(f"{package}_*.deb")
    target = folder / package
    _run(folder, "a Debian system", "dpkg-deb", "-x", str(file), str(target))
    return target


def module(name, package):
    """Imports a module of a package that only some data needs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SystemExit(
            f"benchmarks.data: {package} is missing. Run `pip install 'metricjax[reality]'`."
        ) from None


def _run(folder, origin, program, *flags):
    """Runs a program in a folder and returns what it prints; `origin` is what installs it."""
    if shutil.which(program) is None:
        raise SystemExit(f"benchmarks.data: `{program}` is missing. It comes with {origin}.")
    done = subprocess.run([program, *flags], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SystemExit(
            f"benchmarks.data: `{program} {' '.join(flags)}` failed: {last[0]}. "
            "Check that the registry can be reached."
        )
    return done.stdout
