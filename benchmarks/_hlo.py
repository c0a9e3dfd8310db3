"""What a compiled program does, read off the text of XLA's optimized HLO.

The text is a list of computations, and each is a list of instructions, such as

    %fusion.3 = f32[512,1024]{1,0:T(8,128)S(1)} fusion(%param.1), kind=kLoop, calls=%fused.3,
        backend_config={"estimated_cycles":"2200", ...}

`T(8,128)` says that the array lies in tiles of 8 x 128, so its sizes are rounded up to whole tiles;
`S(1)`, that it is in a TPU's memory on the chip and not in HBM. Both are missing in programs for
GPUs. A `while` has a condition and a body; what is in the body counts as often as the loop runs.
Where that depends on data, it counts as often as the caller says.
"""

import collections
import math
import re
from dataclasses import dataclass, field

BITS = {"pred": 8, "bf16": 16, "token": 0}  # the others have their size in their name
TYPE = re.compile(r"\b(pred|bf16|token|[a-z]\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
COLLECTIVE = re.compile(r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-\w+)")
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-start",
    "opt-barrier", "partition-id", "replica-id",
}  # fmt: skip
"""Instructions that do no work; a copy is counted where it is done."""
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass(frozen=True)
class Array:
    """An array as it lies in memory."""

    text: str
    size: int  # bytes
    padded: int  # bytes, in whole tiles
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    name: str
    op: str
    arrays: tuple[Array, ...]  # what it gives
    operands: tuple[str, ...]
    literal: str  # what is in the parentheses
    attributes: str
    is_root: bool

    def called(self, what):
        """The computation that it names as its `calls`, `body`, `condition` or `to_apply`."""
        found = re.search(what + r"=%?([\w.\-]+)", self.attributes)
        return found and found[1]


@dataclass
class Program:
    """Computations by name, each a dict of instructions by name."""

    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: str = ""


def parse(text: str) -> Program:
    program, current = Program(), None
    for line in text.splitlines():
        head = HEAD.match(line)
        if head and not line.startswith((" ", "HloModule")):
            current = program.computations.setdefault(head[2], {})
            program.entry = head[2] if head[1] else program.entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (start := INSTRUCTION.match(line)):
            one = _instruction(start, line[start.end() :])
            current[one.name] = one
    return program


def _instruction(start, rest):
    end = _closed(rest, 0) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closed(rest, opened)
    literal = rest[opened + 1 : closed - 1]
    arrays = tuple(map(_array, TYPE.finditer(kind)))
    operands = tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(
        start[2], rest[:opened], arrays, operands, literal, rest[closed:], bool(start[1])
    )


def _closed(text, opened):
    """The place behind the parenthesis that closes the one at `opened`."""
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"not closed: {text[:80]}")


def _array(found):
    kind, dims, layout = found[1], found[2], found[3] or ""
    sizes = [int(d) for d in dims.split(",") if d]
    bits = BITS.get(kind) if kind in BITS else int(re.search(r"\d+", kind)[0])
    padded = list(sizes)
    tile = re.search(r"T\(([\d,]+)\)", layout)
    order = [int(k) for k in layout.split(":")[0].split(",") if k]
    if tile:  # the last size of the tile is that of the axis that comes first in the order
        for axis, of in zip(order, map(int, reversed(tile[1].split(","))), strict=False):
            padded[axis] = -(-padded[axis] // of) * of
    size = lambda sizes: bits * math.prod(sizes) // 8
    return Array(f"{kind}[{dims}]", size(sizes), size(padded), "S(1)" in layout)


def summary(text: str, unknown: int = 1) -> dict:
    """What a program does in one run.

    Args:
        text: optimized HLO.
        unknown: how often a loop runs whose length depends on data.

    Returns:
        ``cycles``, as estimated by libtpu, 0 for GPUs; ``kernels``, how many instructions are run;
        ``traffic`` and ``on_chip``, bytes that move to and from HBM and the memory on the chip;
        ``loops``, how often each runs, or None; ``collectives`` and ``in_loops``, how many are run
        outside and inside of loops, by kind; ``padding``, the array that padding makes largest;
        ``top``, ``(cycles, traffic, what)`` of each instruction, the costliest first.
    """
    return _Walk(parse(text), unknown).summary()


class _Walk:
    """A walk through a program, that counts."""

    def __init__(self, program, unknown):
        self.of, self.unknown = program.computations, unknown
        self.total, self.loops = collections.Counter(), []
        self.collectives, self.in_loops = collections.Counter(), collections.Counter()
        self.padding, self.costs = None, []
        self.visit(program.entry, 1, False)

    def summary(self):
        names = "cycles", "kernels", "traffic", "on_chip"
        return {name: self.total[name] for name in names} | {
            "loops": self.loops,
            "collectives": dict(self.collectives),
            "in_loops": dict(self.in_loops),
            "padding": self.padding and self.padding[1],
            "top": sorted(self.costs, reverse=True),
        }

    def visit(self, name, times, in_loop):
        for one in self.of[name].values():
            if one.op == "while":
                steps = self.steps(one)
                self.loops.append(steps)
                self.visit(one.called("body"), times * (steps or self.unknown), True)
            elif one.op == "conditional":
                for branch in re.findall(r"%([\w.\-]+)", one.attributes.split("metadata")[0]):
                    if branch in self.of:
                        self.visit(branch, times, in_loop)
            elif one.op == "call":
                self.visit(one.called("to_apply"), times, in_loop)
            elif one.op not in FREE:
                self.count(one, self.of[name], times, in_loop)

    def steps(self, loop):
        """How often a loop runs: as XLA says, or by the constant in ``k < constant``."""
        if known := re.search(r'known_trip_count"?[:=]\{"?n"?:"?(\d+)', loop.attributes):
            return int(known[1])
        condition = self.of.get(loop.called("condition"), {})
        inner = [self.of.get(one.called("calls"), {}) for one in condition.values()]
        constants = [
            int(one.literal)
            for part in (condition, *inner)
            for one in part.values()
            if one.op == "constant" and one.literal.isdigit()
        ]
        return max(constants, default=0) or None  # "while any is above 0" has no number

    def count(self, one, computation, times, in_loop):
        kind = COLLECTIVE.match(one.op)
        if kind and not one.op.endswith("-done"):
            (self.in_loops if in_loop else self.collectives)[kind[1]] += times
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
        cycles = int(cycles[1]) if cycles else 0
        cycles = times * (cycles if cycles < 2**60 else 0)  # that is "not known"
        moved = self.moved(one, computation)
        traffic = times * sum(size for size, on_chip in moved if not on_chip)
        self.total["kernels"] += times
        self.total["cycles"] += cycles
        self.total["traffic"] += traffic
        self.total["on_chip"] += times * sum(size for size, on_chip in moved if on_chip)
        source = re.search(r'op_name="([^"]*)"', one.attributes)
        what = one.op, one.arrays[0].text if one.arrays else "", source[1] if source else ""
        self.costs.append((cycles, traffic, " ".join(what)))
        for array in one.arrays:
            worst = self.padding[0] if self.padding else 2**18
            if array.padded > max(worst, 2 * array.size - 1):
                ratio = array.padded / max(1, array.size)
                self.padding = array.padded, f"{array.text} x{ratio:.0f}"

    def moved(self, one, computation):
        """``(bytes, on chip)`` of all that an instruction reads and writes."""
        inside = self.of.get(one.called("calls"), {}) if one.op == "fusion" else {}
        if one.op == "copy-done":  # it was started with where to, and from where
            return [(x.padded, x.on_chip) for x in computation[one.operands[0]].arrays[:2]]
        moved = []
        for k, operand in enumerate(one.operands):
            source = computation.get(operand)
            for array in source.arrays[:1] if source else ():
                size = array.padded
                if inside:
                    size = _read(inside, k, size)
                elif k == 0 and one.op in SLICES:
                    size = sum(x.padded for x in one.arrays)
                elif k == 0 and one.op == "dynamic-update-slice":
                    size = 0
                moved.append((size, array.on_chip))
        return moved + [(_written(one, array, computation, inside), array.on_chip)
                        for array in one.arrays]  # fmt: skip


def _read(inside, k, whole):
    """Bytes that a fusion reads of its operand k: of what it only slices, those of the slices."""
    mine = {x.name for x in inside.values() if x.op == "parameter" and x.literal == str(k)}
    while True:
        uses = [x for x in inside.values() if mine & {*x.operands} and x.name not in mine]
        casts = {x.name for x in uses if x.op == "bitcast"}
        if not casts:
            break
        mine |= casts
    if uses and all(x.op in SLICES and x.operands[0] in mine for x in uses):
        return min(whole, sum(x.arrays[0].padded for x in uses))
    if uses and all(x.op == "dynamic-update-slice" and x.operands[0] in mine for x in uses):
        return 0
    return whole


def _written(one, array, computation, inside):
    """Bytes that are written: of an update in place those of the update."""
    root = next((x for x in inside.values() if x.is_root), one)
    if root.op == "dynamic-update-slice":
        update = (inside or computation).get(root.operands[1])
        if update:
            return min(array.padded, update.arrays[0].padded)
    return array.padded
