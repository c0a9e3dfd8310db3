"""Loggers, to which `fit` writes its numbers."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import jax

from metricjax._optional import needed
from metricjax.inference._file import replacing
from metricjax.training._checkpoints import LOG


def print_metrics(step: int, metrics: dict[str, float]) -> None:
    """Prints one line on the standard output.

    Example:
        >>> from metricjax import training
        >>> training.print_metrics(20, {"loss": 0.12345678, "grad_norm": 3.0})
        step 20: loss 0.12346, grad_norm 3
    """
    numbers = ", ".join(f"{name} {x:.5g}" for name, x in metrics.items())
    print(f"step {step}: {numbers}", flush=True)


class CsvLog:
    """Writes a table with one row for each logged step and one column for each name.

    If a run repeats steps of a killed run, the rows of the killed run are replaced.

    Args:
        path: the path of the file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._names: list[str] = []

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        row: dict[str, Any] = {"step": step} | metrics
        if row.keys() <= {*self._names}:
            with open(self.path, "a", newline="") as file:
                self._table(file).writerow(row)
        else:
            self._begin(row)

    def close(self) -> None:
        """Ends the run: the next row is the first one of another run."""
        self._names = []

    def _begin(self, row):
        """Writes the earlier rows again, with columns for the names of this row."""
        before = []
        if self.path.exists():
            whole, _, _ = self.path.read_text().rpartition("\n")  # a killed run may cut a line
            before = [x for x in csv.DictReader(whole.splitlines()) if int(x["step"]) < row["step"]]
        self._names = list(dict.fromkeys([*(before[0] if before else ()), *row]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            text = io.TextIOWrapper(file, newline="", write_through=True)
            table = self._table(text)
            table.writeheader()
            table.writerows([*before, row])
            text.detach()

    def _table(self, file):
        return csv.DictWriter(file, self._names, lineterminator="\n")


class TensorBoardLog:
    """Writes scalars for TensorBoard with tensorboardX.

    ``tensorboard --logdir FOLDER`` shows them.

    If a run repeats steps of a killed run, the scalars of the killed run are hidden.

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: str | os.PathLike):
        advice = "training.TensorBoardLog needs tensorboardX: pip install 'metricjax[train]'"
        self._create, self.folder = needed("tensorboardX", advice).SummaryWriter, os.fspath(folder)
        self._writer: Any = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._begin(step)
        for name, x in metrics.items():
            self._writer.add_scalar(name, x, step)

    def note(self, step: int, text: str) -> None:
        """Writes a line of text, such as the state from which `fit` resumes."""
        self._begin(step + 1)  # numbers of this step were written before
        self._writer.add_text("fit", text, step)

    def _begin(self, step):
        """Hides what other runs have written for this step and later steps."""
        if self._writer is None:
            own = f".{step}.{os.getpid()}"  # else files of the same second have one name
            self._writer = self._create(self.folder, purge_step=step, filename_suffix=own)

    def close(self) -> None:
        """Writes what is still pending."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def joined(stack, loggers, progress, start, steps):
    """Joins all loggers and the bar into ``log(step, numbers)`` and ``note(step, text)``.

    Both do nothing in all processes but one. Notes also go to Python's logger, so that they are
    seen without any loggers.
    """
    if jax.process_index():
        return (lambda step, numbers: None), (lambda step, text: None)
    for logger in loggers:
        if hasattr(logger, "close"):
            stack.callback(logger.close)
    bar = None
    if progress:
        advice = "training.fit: `progress` needs tqdm: pip install 'metricjax[train]'"
        tqdm = needed("tqdm", advice).tqdm
        bar = stack.enter_context(tqdm(desc="training", initial=start, total=steps))

    def log(step, numbers):
        for logger in loggers:
            logger(step, numbers)
        if bar is not None:
            bar.set_postfix({name: f"{x:.3g}" for name, x in numbers.items()}, refresh=False)
            bar.update(step - bar.n)

    def note(step, text):
        LOG.warning(text)
        for logger in loggers:
            if hasattr(logger, "note"):
                logger.note(step, text)

    return log, note
