"""A user's own graph: `.npz` files and `torch_geometric.data.Data` objects, checked on the way in.

These graphs are multigraphs, taken as given: nothing is coalesced, self-loops stay, the order of the edges is kept.
Features become float32; an integer or a float64 is rounded to the nearest float32.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.errors import DatasetError, GraphError
from lpgnas.graph import BoolArray, Features, FloatArray, Graph, IntArray, Split

MASK_KEYS = ("train_mask", "val_mask", "test_mask")
CSR_KEYS = ("x_data", "x_indices", "x_indptr", "x_shape")
ALLOWED_KEYS = ("x", *CSR_KEYS, "edge_index", "y", "num_classes", *MASK_KEYS)

_Array = npt.NDArray[Any]
_Foreign: TypeAlias = Any
"""An object of a library without type stubs: a tensor, PyG's `Data`, NumPy's `NpzFile`."""
_Arrays = Mapping[str, _Array]


def graph_from_npz(path: Path | str, *, require_labels: bool = True) -> Graph:
    """Read a user's graph; its edges are a multigraph, taken as given (no coalescing).

    Arrays of the file: `x` [N, F] of any real number type, or the four parts of a CSR matrix `x_data` [nnz],
    `x_indices` [nnz], `x_indptr` [N + 1] and `x_shape` [2] (entries given twice are summed, as scipy does);
    `edge_index` [2, E] of an integer type, row 0 source, row 1 target; `y` [N] of an integer type; optional
    `num_classes`, a single integer (the largest label + 1 by default); optional `train_mask`, `val_mask` and
    `test_mask` [N] bool, all three or none. Pickled objects are refused.

    Args:
        path: the file; its stem names the graph.
        require_labels: refuse a file without `y`; False suits a graph that is only to be predicted.

    Raises:
        DatasetError: no such file, not an npz file, a damaged file, or an array that is missing or unknown.
        GraphError: an array of a wrong type, shape, value or index.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    _check_keys(arrays, path, require_labels)
    name = path.stem
    x = _csr_from_parts(arrays, name) if "x" not in arrays else _dense(arrays["x"], name)
    y, num_classes = _labels(arrays.get("y"), arrays.get("num_classes"), name)
    masks = Split("own", *(_mask(arrays[key], key, name) for key in MASK_KEYS)) if "train_mask" in arrays else None
    return Graph(name, x, _edges(arrays["edge_index"], name), y, num_classes, masks)


def graph_to_npz(graph: Graph, path: Path | str) -> None:
    """Write a graph so that `graph_from_npz` reads the same arrays back; the file appears whole or not at all.

    The name of the graph is not stored (the file's stem names it), and masks come back under the protocol `own`.

    Raises:
        DatasetError: the path does not end in .npz, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise DatasetError(f"{path}: a graph file ends in .npz; rename it to {path.with_suffix('.npz').name}")
    arrays: dict[str, _Array] = {"edge_index": graph.edge_index}
    if isinstance(graph.x, np.ndarray):
        arrays["x"] = graph.x
    else:
        parts = (graph.x.data, graph.x.indices, graph.x.indptr, np.array(graph.x.shape, dtype=np.int64))
        arrays |= dict(zip(CSR_KEYS, parts, strict=True))
    if graph.y is not None:
        arrays |= {"y": graph.y, "num_classes": np.array(graph.num_classes, dtype=np.int64)}
    if graph.masks is not None:
        arrays |= dict(zip(MASK_KEYS, (graph.masks.train, graph.masks.val, graph.masks.test), strict=True))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path}: the graph cannot be written ({error}); choose another place") from error


def npz_has_masks(path: Path | str) -> bool:
    """Whether a graph file brings its own split; only the table of contents is read.

    Raises:
        DatasetError: no such file, or not an npz file.
    """
    with _opened(Path(path)) as file:
        return all(key in file.files for key in MASK_KEYS)


def graph_from_pyg(
    data: _Foreign,
    *,
    name: str = "pyg",
    protocol: str = "own",
    num_classes: int | None = None,
    require_labels: bool = True,
) -> Graph:
    """Convert a `torch_geometric.data.Data` (anything with `x`, `edge_index`, `y` and masks as tensors).

    Args:
        data: `x` [N, F], dense or a sparse COO or CSR tensor; `edge_index` [2, E]; `y` [N] or [N, 1]; masks [N].
        name: how reports call the graph.
        protocol: what `Graph.masks` says the masks are: `own`, or `public` for those of a published dataset.
        num_classes: C; the largest label + 1 by default.
        require_labels: refuse data without `y`.

    Raises:
        GraphError: a part is missing, of a wrong type, shape, value or index, or is not built yet (edge attributes,
            several targets a node, several splits).
    """
    for key in ("edge_attr", "edge_weight"):
        if getattr(data, key, None) is not None:
            raise GraphError(f"{name}: edge attributes are not built yet; remove with data.{key} = None")
    needed = ("x", "edge_index", "y") if require_labels else ("x", "edge_index")
    missing = [key for key in needed if getattr(data, key, None) is None]
    if missing:
        raise GraphError(f"{name}: the data has no {', '.join(missing)}; a graph needs {', '.join(needed)}")
    y = getattr(data, "y", None)
    labels, classes = _labels(
        None if y is None else _single_target(_numpy(y), name),
        None if num_classes is None else np.array(num_classes),
        name,
    )
    return Graph(
        name,
        _features_from_tensor(data.x, name),
        _edges(_numpy(data.edge_index), name),
        labels,
        classes,
        _masks_from_pyg(data, protocol, name),
    )


@contextmanager
def _opened(path: Path) -> Iterator[_Foreign]:
    """Open an npz file without reading its arrays."""
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file; give the path of a graph in .npz")
    with ExitStack() as stack:
        try:
            # Opened here, as numpy.load(path) would leave a damaged file open.
            loaded = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"{path}: not an npz file, or a truncated one ({error}); write it with lpgnas.datasets.graph_to_npz "
                f"or numpy.savez"
            ) from error
        if not hasattr(loaded, "files"):
            raise DatasetError(
                f"{path}: holds one bare array, not an npz file; write it with numpy.savez(path, x=..., ...)"
            )
        yield stack.enter_context(loaded)


def _read_arrays(path: Path) -> dict[str, _Array]:
    arrays: dict[str, _Array] = {}
    with _opened(path) as file:
        for key in file.files:
            # A member that is no array (a stray text file in the archive) comes back as bytes: _check_keys names it.
            try:
                arrays[key] = np.asarray(file[key])
            except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
                raise DatasetError(
                    f"{path}: array {key!r} cannot be read ({error}); the file is damaged, or holds Python objects, "
                    f"which are refused: write plain numbers again"
                ) from error
    return arrays


def _check_keys(arrays: _Arrays, path: Path, require_labels: bool) -> None:
    there = ", ".join(sorted(arrays)) or "nothing"
    unknown = sorted(set(arrays) - set(ALLOWED_KEYS))
    if unknown:
        raise DatasetError(f"{path}: unknown array {', '.join(unknown)}; allowed: {', '.join(ALLOWED_KEYS)}")
    parts = [key for key in CSR_KEYS if key in arrays]
    if "x" in arrays and parts:
        raise DatasetError(f"{path}: both x and {', '.join(parts)}; give the features once, dense or as CSR parts")
    features = CSR_KEYS if parts else ("x",)
    masks = MASK_KEYS if any(key in arrays for key in MASK_KEYS) else ()
    missing = [key for key in (*features, "edge_index", *masks) if key not in arrays]
    if missing:
        hint = " (masks: all three or none)" if set(missing) <= set(MASK_KEYS) else ""
        raise DatasetError(f"{path}: array {', '.join(missing)} is missing{hint}; the file holds {there}")
    if require_labels and "y" not in arrays:
        raise DatasetError(
            f"{path}: array y is missing; the file holds {there}; search and training need the class of each node"
        )


def _to_float32(values: _Array, what: str, name: str) -> FloatArray:
    if values.dtype.kind not in "fiub":
        raise GraphError(f"{name}: {what} must hold real numbers, got {values.dtype}; convert with .astype('float32')")
    with np.errstate(over="ignore"):
        converted: FloatArray = values.astype(np.float32)
    too_large = np.isfinite(values) & ~np.isfinite(converted)
    if too_large.any():
        value = values[too_large][0]
        raise GraphError(f"{name}: {what} holds {value}, beyond the range of float32; scale the features")
    return converted


def _dense(x: _Array, name: str) -> FloatArray:
    return np.ascontiguousarray(_to_float32(x, "x", name))


def _csr_from_parts(arrays: _Arrays, name: str) -> sparse.csr_array:
    data = _to_float32(arrays["x_data"], "x_data", name)
    indices, indptr, shape = (_integers(arrays[key], key, name) for key in CSR_KEYS[1:])
    if shape.shape != (2,) or (shape < 0).any():
        raise GraphError(f"{name}: x_shape must be [num_nodes, num_features], got {shape.tolist()}")
    rows, columns = (int(size) for size in shape)
    if data.ndim != 1 or indices.shape != data.shape:
        raise GraphError(
            f"{name}: x_data and x_indices must be 1-D of one length, got shapes {data.shape} and {indices.shape}"
        )
    if indptr.shape != (rows + 1,):
        raise GraphError(f"{name}: x_indptr must have shape [{rows + 1}] for {rows} nodes, got {list(indptr.shape)}")
    falls = np.flatnonzero(np.diff(indptr) < 0)
    if falls.size:
        row = int(falls[0])
        raise GraphError(f"{name}: x_indptr falls from {indptr[row]} to {indptr[row + 1]} at row {row}; it never falls")
    if indptr[0] != 0 or indptr[-1] != data.size:
        raise GraphError(
            f"{name}: x_indptr must run from 0 to {data.size} (the entries of x_data), got {indptr[0]} to {indptr[-1]}"
        )
    bad = np.flatnonzero((indices < 0) | (indices >= columns))
    if bad.size:
        raise GraphError(
            f"{name}: x_indices[{bad[0]}] = {indices[bad[0]]} is out of range: x has {columns} features, so columns "
            f"run from 0 to {columns - 1}"
        )
    return canonical_csr(sparse.csr_array((data, indices, indptr), shape=(rows, columns)))


def canonical_csr(x: sparse.csr_array) -> sparse.csr_array:
    """A float32 copy with sorted indices, entries given twice summed, and no explicit zeros."""
    x = sparse.csr_array(x, dtype=np.float32, copy=True)
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def _integers(values: _Array, what: str, name: str) -> IntArray:
    if values.dtype.kind not in "iu":
        raise GraphError(
            f"{name}: {what} must be of an integer type, got {values.dtype}; convert with .astype('int64')"
        )
    return values.astype(np.int64)


def _edges(edge_index: _Array, name: str) -> IntArray:
    edges = _integers(edge_index, "edge_index", name)
    if edges.ndim != 2 or edges.shape[0] != 2:
        hint = "; transpose it" if edges.ndim == 2 and edges.shape[1] == 2 else ""
        raise GraphError(f"{name}: edge_index must have shape [2, num_edges], got {list(edges.shape)}{hint}")
    return np.ascontiguousarray(edges)


def _labels(y: _Array | None, num_classes: _Array | None, name: str) -> tuple[IntArray | None, int]:
    """Labels as int64 and the number of classes; range and length are for `Graph` to check."""
    if y is None:
        return None, 0
    labels = _integers(y, "y", name)
    if labels.ndim != 1:
        raise GraphError(f"{name}: y must have shape [num_nodes], got {list(labels.shape)}; give one class a node")
    if labels.size and labels.min() < 0:
        node = int(np.argmin(labels))
        raise GraphError(f"{name}: y[{node}] = {labels[node]} is negative; every node needs a class from 0 upwards")
    if num_classes is None:
        return labels, int(labels.max(initial=0)) + 1
    if num_classes.ndim != 0 or num_classes.dtype.kind not in "iu":
        raise GraphError(
            f"{name}: num_classes must be a single integer, got {num_classes.dtype} of shape {list(num_classes.shape)}"
        )
    return labels, int(num_classes)


def _mask(mask: _Array, what: str, name: str) -> BoolArray:
    if mask.dtype != np.bool_:
        raise GraphError(f"{name}: {what} must be bool, got {mask.dtype}; convert with .astype(bool)")
    return mask


def _numpy(tensor: _Foreign) -> _Array:
    """A tensor (or an array) as an array, without importing torch."""
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)


def _single_target(y: _Array, name: str) -> _Array:
    """Drop the second axis of [N, 1] labels (OGB's form); refuse several targets a node."""
    if y.ndim == 2 and y.shape[1] > 1:
        raise GraphError(
            f"{name}: y has {y.shape[1]} targets a node; multi-label targets are not built yet: choose one column"
        )
    return y[:, 0] if y.ndim == 2 else y


def _features_from_tensor(x: _Foreign, name: str) -> Features:
    if getattr(x, "is_sparse", False):
        x = x.detach().cpu().coalesce()
        if x.sparse_dim() != 2 or x.dense_dim() != 0:
            raise GraphError(
                f"{name}: a sparse x must have two sparse dimensions and no dense one, got {x.sparse_dim()} and "
                f"{x.dense_dim()}"
            )
        rows, columns = _numpy(x.indices())
        values = _to_float32(_numpy(x.values()), "x", name)
        return canonical_csr(sparse.csr_array((values, (rows, columns)), shape=tuple(x.shape)))
    if getattr(x, "is_sparse_csr", False):
        parts = (_numpy(part) for part in (x.values(), x.col_indices(), x.crow_indices(), list(x.shape)))
        return _csr_from_parts(dict(zip(CSR_KEYS, parts, strict=True)), name)
    if not hasattr(x, "detach") and not isinstance(x, np.ndarray):
        raise GraphError(f"{name}: x must be a tensor, got {type(x).__name__}; convert with torch.as_tensor(x)")
    return _dense(_numpy(x.float() if hasattr(x, "detach") else x), name)


def _masks_from_pyg(data: _Foreign, protocol: str, name: str) -> Split | None:
    found = {key: getattr(data, key, None) for key in MASK_KEYS}
    missing = [key for key, mask in found.items() if mask is None]
    if len(missing) == len(MASK_KEYS):
        return None
    if missing:
        raise GraphError(f"{name}: the data has no {', '.join(missing)}; give all three masks or none")
    masks = {key: _mask(_numpy(mask), key, name) for key, mask in found.items()}
    for key, mask in masks.items():
        if mask.ndim == 2:
            raise GraphError(
                f"{name}: {key} holds {mask.shape[1]} splits; choose one with data.{key} = data.{key}[:, 0]"
            )
    return Split(protocol, *masks.values())
