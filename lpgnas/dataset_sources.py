"""Published datasets through the libraries' own classes (PyG, OGB), without their side effects on a data root.

The library never works in the data root itself. Each load links the dataset's files into a staging folder, lets the
library download or process there, and moves new files back one by one when all went well. So a failed download
leaves nothing behind, and a read-only root works (what was processed is then dropped).
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from lpgnas.errors import DatasetError

Foreign: TypeAlias = Any
"""An object of a library without type stubs: PyG's `Data`, a dataset class, a module."""

DOWNLOAD_TIMEOUT = 30.0
"""Seconds without an answer after which a download fails; the libraries themselves would wait for ever."""


@dataclass(frozen=True)
class Layout:
    """Where a library keeps a dataset, and how it opens it.

    Attributes:
        folder: the dataset's folder under the data root.
        required: the files that must be there, relative to `folder`; all there means that nothing is downloaded.
        processed: the library's own cache, relative to `folder`.
        open: (the module `torch_geometric.datasets`, data root) -> (the `Data` object, with the masks that the dataset
            ships, if any; the number of classes).
    """

    folder: str
    required: tuple[str, ...]
    processed: str
    open: Callable[[Foreign, Path], tuple[Foreign, int]]


def load_library_data(name: str, root: Path) -> tuple[Foreign, int]:
    """Load a published dataset as its library gives it: a `torch_geometric.data.Data` and the number of classes.

    Raises:
        DatasetError: files are missing and cannot be downloaded, or are damaged; the message names the folder.
    """
    layout = LAYOUTS[name]
    folder = root / layout.folder
    if missing_files(name, root):
        return _download(name, root)
    with _staging(folder) as (stage, writable):
        linked = [*layout.required, *([layout.processed] if (folder / layout.processed).is_file() else [])]
        _link(folder, stage / layout.folder, linked)
        try:
            loaded = _open_quietly(layout, stage)
        except (DatasetError, ImportError):
            raise
        # Damaged files surface as anything: pickle, zip, gzip, CSV, JSON, index and assertion errors.
        except Exception as error:
            raise DatasetError(
                f"dataset {name!r}: the files in {folder} are damaged or of another dataset ({type(error).__name__}: "
                f"{error}); delete {folder / 'processed'} if it exists, and put good copies of "
                f"{', '.join(layout.required)} there"
            ) from error
        if writable:
            _publish(stage / layout.folder, folder, linked)
    return loaded


def missing_files(name: str, root: Path) -> list[str]:
    """The files of a published dataset that the root lacks, relative to the dataset's folder."""
    layout = LAYOUTS[name]
    return [file for file in layout.required if not (root / layout.folder / file).is_file()]


def _download(name: str, root: Path) -> tuple[Foreign, int]:
    layout = LAYOUTS[name]
    created = [path for path in (root, *root.parents) if not path.exists()]
    try:
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
        with _staging(root) as (stage, writable):
            if not writable:
                raise _unavailable(name, root, "the data root is not writable")
            try:
                with _socket_timeout(DOWNLOAD_TIMEOUT):
                    loaded = _open_quietly(layout, stage)
            except (DatasetError, ImportError):
                raise
            # No network, a broken archive, a full disk: the libraries raise anything, and OGB even exits.
            except (Exception, SystemExit) as error:
                raise _unavailable(name, root, f"downloading failed ({type(error).__name__}: {error})") from error
            _publish(stage / layout.folder, root / layout.folder, ())
    finally:
        for path in created:
            with suppress(OSError):  # rmdir refuses a folder with content: after a success nothing is removed
                path.rmdir()
    return loaded


def _unavailable(name: str, root: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"dataset {name!r}: {root / LAYOUTS[name].folder} lacks {', '.join(missing_files(name, root))}, and {reason}; "
        f"put these files there, or name a data root that has them with --data-root or LPGNAS_DATA"
    )


@contextmanager
def _staging(beside: Path) -> Iterator[tuple[Path, bool]]:
    """A temporary folder inside `beside`, so that moving out of it is atomic; elsewhere (False) if it is read-only."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix=".lpgnas-", dir=beside))
            writable = True
        except OSError:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="lpgnas-"))
            writable = False
        yield Path(made), writable


def _link(folder: Path, stage: Path, files: list[str]) -> None:
    for file in files:
        link = stage / file
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to((folder / file).resolve())
        except OSError:  # a file system without links
            shutil.copyfile(folder / file, link)


def _publish(stage: Path, folder: Path, known: list[str] | tuple[()]) -> None:
    """Move what the library made into the dataset's folder, each file whole."""
    made = [path for path in sorted(stage.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in made:
        file = path.relative_to(stage)
        if file.as_posix() in known:
            continue
        # The data are loaded already: a cache that cannot be kept (another file system, no space) costs time only.
        with suppress(OSError):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / file)


def _open_quietly(layout: Layout, root: Path) -> tuple[Foreign, int]:
    """Open, with what the library prints sent to standard error: standard output is the command's own."""
    from torch_geometric import datasets as pyg

    with redirect_stdout(sys.stderr):
        return layout.open(pyg, root)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _replaced(owner: Foreign, attribute: str, value: object) -> Iterator[None]:
    """Set an attribute for a while; one that was not there is removed again."""
    absent = object()
    before = getattr(owner, attribute, absent)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if before is absent:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, before)


def _opened(dataset: Foreign) -> tuple[Foreign, int]:
    return dataset[0], int(dataset.num_classes)


def _planetoid(name: str) -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Planetoid(str(root / "Planetoid"), name))

    parts = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
    files = tuple(f"raw/ind.{name.lower()}.{part}" for part in parts)
    return Layout(f"Planetoid/{name}", files, "processed/data.pt", open_data)


def _amazon(name: str) -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Amazon(str(root / "Amazon"), name))

    return Layout(f"Amazon/{name}", (f"raw/amazon_electronics_{name.lower()}.npz",), "processed/data.pt", open_data)


def _coauthor(name: str) -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Coauthor(str(root / "Coauthor"), name))

    return Layout(f"Coauthor/{name}", (f"raw/ms_academic_{name[:3].lower()}.npz",), "processed/data.pt", open_data)


def _cora_full() -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.CitationFull(str(root / "CitationFull"), "Cora"))

    # CitationFull writes its names in lower case, unlike Planetoid.
    return Layout("CitationFull/cora", ("raw/cora.npz",), "processed/data_undirected.pt", open_data)


def _flickr() -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Flickr(str(root / "Flickr")))

    files = ("raw/adj_full.npz", "raw/feats.npy", "raw/class_map.json", "raw/role.json")
    return Layout("Flickr", files, "processed/data.pt", open_data)


def _yelp() -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Yelp(str(root / "Yelp")))

    return Layout("Yelp", _flickr().required, "processed/data.pt", open_data)


def _reddit() -> Layout:
    def open_data(pyg: Foreign, root: Path) -> tuple[Foreign, int]:
        return _opened(pyg.Reddit(str(root / "Reddit")))

    return Layout("Reddit", ("raw/reddit_data.npz", "raw/reddit_graph.npz"), "processed/data.pt", open_data)


def _ogbn(name: str, split: str, more: tuple[str, ...] = ()) -> Layout:
    raw = ("edge", "node-feat", "node-label", "num-node-list", "num-edge-list", *more)
    files = (
        *(f"raw/{file}.csv.gz" for file in raw),
        *(f"split/{split}/{part}.csv.gz" for part in ("train", "valid", "test")),
        # OGB asks on standard input whether to update a folder without this file.
        "RELEASE_v1.txt",
    )
    folder = f"ogb/{name.replace('-', '_')}"
    return Layout(folder, files, "processed/geometric_data_processed.pt", lambda _, root: _open_ogbn(name, root))


def _open_ogbn(name: str, root: Path) -> tuple[Foreign, int]:
    import torch
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    ogbn = _import_ogbn(name)

    def refuse(question: str = "") -> str:
        raise DatasetError(f"dataset {name!r}: OGB asked {question.strip()!r}; its release differs from the files'")

    with ExitStack() as stack:
        # OGB asks on standard input before it updates a folder or downloads more than 1 GB: a run must never wait
        # for an answer, and who names the dataset has asked for the download.
        stack.enter_context(_replaced(ogbn, "input", refuse))
        stack.enter_context(_replaced(ogbn, "decide_download", lambda url: True))
        # OGB reads its own cache with torch.load, which since torch 2.6 loads only classes that are declared safe.
        # Only new ones: at its end safe_globals forgets what it was given, even if PyG had declared it for good.
        needed = {Data, DataEdgeAttr, DataTensorAttr, GlobalStorage}
        new = sorted(needed - set(torch.serialization.get_safe_globals()), key=lambda kind: kind.__name__)
        stack.enter_context(torch.serialization.safe_globals(new))
        dataset = ogbn.PygNodePropPredDataset(name=name, root=str(root / "ogb"))
        data, num_classes = _opened(dataset)
        parts = dataset.get_idx_split()
    for ours, theirs in (("train_mask", "train"), ("val_mask", "valid"), ("test_mask", "test")):
        mask = torch.zeros(data.num_nodes, dtype=torch.bool)
        mask[parts[theirs]] = True
        data[ours] = mask
    return data, num_classes


def _import_ogbn(name: str) -> Foreign:
    # On import OGB starts a thread that asks the package index for its newest version, unless `outdated` is absent.
    known = "outdated" in sys.modules
    before: Foreign = sys.modules.get("outdated")
    sys.modules["outdated"] = None  # type: ignore[assignment]  # the import system's sign for "cannot be imported"
    try:
        from ogb.nodeproppred import dataset_pyg
    except ImportError as error:
        raise DatasetError(
            f"dataset {name!r} needs the package ogb ({error}); install it with: pip install lpgnas[ogb]"
        ) from error
    finally:
        if known:
            sys.modules["outdated"] = before
        else:
            del sys.modules["outdated"]
    return dataset_pyg


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "planetoid/Cora": _planetoid("Cora"),
        "planetoid/CiteSeer": _planetoid("CiteSeer"),
        "planetoid/PubMed": _planetoid("PubMed"),
        "amazon/Computers": _amazon("Computers"),
        "amazon/Photo": _amazon("Photo"),
        "coauthor/CS": _coauthor("CS"),
        "coauthor/Physics": _coauthor("Physics"),
        "CoraFull": _cora_full(),
        "Flickr": _flickr(),
        "Yelp": _yelp(),
        "Reddit": _reddit(),
        "ogbn-arxiv": _ogbn("ogbn-arxiv", "time", ("node_year",)),
        "ogbn-products": _ogbn("ogbn-products", "sales_ranking"),
    }
)
