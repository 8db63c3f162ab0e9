"""Integer transforms beside float32 products: dense int8 codes, and sparse binary features.

    python -m benchmarks.transforms --data-root FOLDER

One process, one thread, process time; contenders take turns, the order turns from round to round. Ours takes codes and
gives codes, with packing, rounding and saturation; torch and scipy only multiply. `tiles alone` is our dense kernel on
one block that stays in the cache, without packing and rounding: what it could reach. `rounding alone` is the epilogue
of our sparse kernel. Times depend on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse

from benchmarks import RESULTS
from lpgnas.bench import Contender, interleaved
from lpgnas.datasets import load_dataset
from lpgnas.float_rivals import csr_tensor
from lpgnas.kernels.quantize import SparseCodes
from lpgnas.kernels.transform_tiles import (
    BLOCK_ROWS,
    CHUNK,
    COLUMNS,
    RealRescale,
    dense_scratch,
    lane_group,
    multiply_tiles,
    real_rescale,
    sparse_scratch,
    tile_weight,
    transform_dense_tiles,
    transform_sparse_tiles,
    write_block,
)
from lpgnas.machine import cpu_name
from lpgnas.number_formats import Rounding
from lpgnas.report import markdown_table

DENSE = (("Cora's shape", 2708, 1433, 64), ("Cora's shape", 2708, 1433, 256), ("PubMed's shape", 19717, 500, 64))
SPARSE = (("cora", 64), ("cora", 256), ("planetoid/CiteSeer", 64), ("amazon/Photo", 64), ("amazon/Computers", 64))
OURS, TORCH, SCIPY = "ours, int8", "torch, float32", "scipy, float32"
CEILING, ROUNDING = "tiles alone", "rounding alone"
NO_FACTOR = np.zeros(0, dtype=np.int64)
Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Case:
    """One product: its name, kind, and multiply-adds that a contender's time is divided by."""

    name: str
    kind: str
    products: int
    contenders: tuple[Contender, ...]


def _rounding(shift: int, largest: int, width: int) -> RealRescale:
    return real_rescale(shift, Rounding.HALF_EVEN, (-128, 127), largest, width)


def dense_case(name: str, nodes: int, inputs: int, width: int) -> Case:
    """Random codes and weights of 8 bits."""
    rng = np.random.default_rng(0)
    codes, weight = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((nodes, inputs), (inputs, width)))
    tiles, out = tile_weight(weight, signed=True), np.empty((nodes, width), dtype=np.int8)
    by = _rounding(12, inputs << 14, width)
    left, right = (torch.from_numpy(array.astype(np.float32)) for array in (codes, weight))
    products = torch.empty((nodes, width))
    contenders = (
        Contender(
            OURS,
            "",
            partial(transform_dense_tiles, codes, tiles, False, NO_FACTOR, by, dense_scratch(tiles, nodes), out),
        ),
        Contender(TORCH, "", partial(torch.mm, left, right, out=products)),
        Contender(CEILING, "", ceiling(nodes * inputs * width)),
    )
    return Case(f"{name}, {nodes} x {inputs} x {width}", "dense", nodes * inputs * width, contenders)


def ceiling(products: int) -> Callable[[], None]:
    """The kernel of the tiles on one block that is multiplied until it has done `products` multiply-adds."""
    inputs = CHUNK * lane_group() // 2
    tiles = tile_weight(np.ones((inputs, COLUMNS), dtype=np.int8), signed=False)
    scratch = dense_scratch(tiles, BLOCK_ROWS)
    scratch.parts[:] = 1
    turns = max(1, round(products / (BLOCK_ROWS * inputs * COLUMNS)))
    arguments = (scratch.packed, BLOCK_ROWS, tiles.panels, tiles.width, tiles.initial, scratch.accumulators)

    def call() -> None:
        for _ in range(turns):
            multiply_tiles(*arguments)

    return call


def rounding_alone(out: Int8Array, by: RealRescale) -> Callable[[], None]:
    """The epilogue of as many accumulators as `out` has, in blocks of 1,024 rows that stay in the cache."""
    accumulators, sums = np.zeros((1024, out.shape[1]), dtype=np.int32), np.zeros(1024, dtype=np.int64)

    def call() -> None:
        for first in range(0, len(out), 1024):
            block = (first, min(first + 1024, len(out)))
            write_block(accumulators, sums, block, False, NO_FACTOR, by, out)

    return call


def sparse_case(dataset: str, width: int, data_root: Path | None) -> Case:
    """The binary features of a graph times random weights of 8 bits."""
    x = sparse.csr_array(load_dataset(dataset, data_root).x != 0).astype(np.float32)
    weight = np.random.default_rng(0).integers(-128, 128, (x.shape[1], width)).astype(np.int8)
    tiles, out = tile_weight(weight, signed=False), np.empty((x.shape[0], width), dtype=np.int8)
    entries = SparseCodes(x.indptr.astype(np.int64), x.indices.astype(np.int32), np.empty(0, dtype=np.uint8))
    by = _rounding(4, int(np.diff(x.indptr).max()) << 7, width)
    left = csr_tensor(x, torch.float32)
    real = weight.astype(np.float32)
    contenders = (
        Contender(
            OURS,
            "",
            partial(transform_sparse_tiles, entries, tiles, False, NO_FACTOR, by, sparse_scratch(tiles, len(out)), out),
        ),
        Contender(TORCH, "", partial(torch.sparse.mm, left, torch.from_numpy(real))),
        Contender(SCIPY, "", lambda: x @ real),
        Contender(ROUNDING, "", rounding_alone(out, by)),
    )
    shape = f"{dataset}, {x.shape[0]} x {x.shape[1]}, {x.nnz} ones, x {width}"
    return Case(shape, "sparse binary", int(x.nnz) * width, contenders)


def measure(cases: list[Case], rounds: int) -> pd.DataFrame:
    """One row a case and contender: milliseconds, and torch's time as a multiple."""
    rows: list[dict[str, Any]] = []
    for case in cases:
        timed = interleaved(case.contenders, rounds, time.process_time_ns)
        reference = next(one["median_ms"] for one in timed if one["name"] == TORCH)
        for one in timed:
            row = {"kind": case.kind, "case": case.name, "contender": one["name"]}
            row |= {name: one[name] for name in ("median_ms", "q1_ms", "q3_ms")}
            row["giga_products_per_second"] = round(case.products / one["median_ms"] / 1e6, 1)
            row["times_torch"] = round(reference / one["median_ms"], 2)
            rows.append(row)
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame, rounds: int) -> str:
    """The table as Markdown."""
    lanes = {2: "pairs of int16 (vpmaddwd where AVX2 is)", 4: "quads of bytes (vpdpbusd)"}[lane_group()]
    text = (
        f"Made by `python -m benchmarks.transforms --data-root FOLDER`. {cpu_name()}, one thread, {rounds} interleaved "
        f"rounds of process time, median and quartiles; dense lanes hold {lanes}.\n"
    )
    for kind, part in rows.groupby("kind", sort=False):
        lines = [
            [
                row.case,
                row.contender,
                f"{row.median_ms:.3f}",
                f"{row.q1_ms:.3f} to {row.q3_ms:.3f}",
                f"{row.giga_products_per_second:.1f}",
                f"{row.times_torch:.2f}",
            ]
            for row in part.itertuples()
        ]
        header = [f"{kind} product", "", "ms", "quartiles", "10^9 multiply-adds/s", "times torch"]
        text += "\n" + markdown_table(header, lines)
    return text


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--out", type=Path, default=RESULTS / "transforms.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [dense_case(*one) for one in DENSE] + [sparse_case(*one, options.data_root) for one in SPARSE]
    rows = measure(cases, options.rounds)
    rows.to_csv(options.out, index=False, lineterminator="\n")
    options.out.with_suffix(".md").write_text(summary(rows, options.rounds))


if __name__ == "__main__":
    main()
