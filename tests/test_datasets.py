"""Named datasets: the table, each library's raw format, and what happens when files are missing or damaged."""

from __future__ import annotations

import builtins
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tiny_datasets import NUM_CLASSES, WRITERS, tiny, write
from torch_geometric.data import InMemoryDataset

from lpgnas import dataset_sources
from lpgnas.datasets import (
    DATASETS,
    dataset_table,
    default_protocol,
    graph_to_npz,
    load_dataset,
    make_split,
    resolve_data_root,
)
from lpgnas.errors import DatasetError, UnknownName
from lpgnas.graph import Graph

WITH_MASKS = {
    "planetoid/Cora",
    "planetoid/CiteSeer",
    "planetoid/PubMed",
    "Flickr",
    "Reddit",
    "ogbn-arxiv",
    "ogbn-products",
}


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may ask on standard input, fall back to the home folder, or reach the network."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(f"tests have no network and no standard input: {args}")

    monkeypatch.setattr(builtins, "input", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch_geometric.io.fs.cp", refuse)
    monkeypatch.delenv("LPGNAS_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def dense(graph: Graph) -> np.ndarray[Any, np.dtype[np.float32]]:
    return graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()


def assert_is_tiny(graph: Graph, name: str) -> None:
    expected = tiny()
    np.testing.assert_array_equal(dense(graph), expected.x)
    np.testing.assert_array_equal(graph.edge_index, expected.edges)
    assert graph.y is not None
    np.testing.assert_array_equal(graph.y, expected.y)
    assert graph.num_classes == {"ogbn-arxiv": 40, "ogbn-products": 47}.get(name, NUM_CLASSES)
    assert (graph.masks is not None) == (name in WITH_MASKS)
    if graph.masks is not None:
        assert graph.masks.protocol == "public"
        for which in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(graph.masks, which), getattr(expected, which))


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse temporary folders anywhere but in the system's own place (file modes do not bind the superuser)."""
    original = tempfile.TemporaryDirectory

    def elsewhere(prefix: str, dir: Path | None = None) -> tempfile.TemporaryDirectory[str]:
        if dir is not None:
            raise PermissionError(f"read-only: {dir}")
        return original(prefix=prefix)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", elsewhere)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# The table


def test_embedded_cora_needs_no_data_root() -> None:
    graph = load_dataset("cora")
    assert (graph.num_nodes, graph.num_edges, graph.num_features, graph.num_classes) == (2708, 10556, 1433, 7)
    assert not isinstance(graph.x, np.ndarray)
    assert isinstance(graph.x, sparse.csr_array)
    assert graph.x.dtype == np.float32
    assert graph.x.has_canonical_format
    assert graph.x.nnz == 49216
    assert (graph.x.data == 1).all()
    assert graph.masks is None
    source, target = graph.edge_index
    assert (source != target).all()
    keys = target * graph.num_nodes + source
    assert (np.diff(keys) > 0).all()
    np.testing.assert_array_equal(np.sort(source * graph.num_nodes + target), keys)


def test_every_row_is_loadable_or_refused_by_name() -> None:
    assert set(DATASETS) == {"cora", "Yelp", *WRITERS}
    assert {row.default_split for row in DATASETS.values()} == {"full", "public", "shchur"}
    assert all(DATASETS[name].name == name for name in DATASETS)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("cora", "full"),
        ("planetoid/Cora", "public"),
        ("amazon/Photo", "shchur"),
        ("coauthor/CS", "shchur"),
        ("CoraFull", "shchur"),
        ("Reddit", "public"),
        ("ogbn-arxiv", "public"),
    ],
)
def test_default_protocol(name: str, protocol: str) -> None:
    assert default_protocol(name) == protocol == DATASETS[name].default_split


def test_default_protocol_of_a_users_file(tmp_path: Path) -> None:
    graph = load_dataset("cora")
    path = tmp_path / "mine.npz"
    graph_to_npz(graph, path)
    assert default_protocol(str(path)) == "full"
    graph_to_npz(Graph("mine", graph.x, graph.edge_index, graph.y, 7, make_split(graph, "full", 0)), path)
    assert default_protocol(str(path)) == "own"
    assert load_dataset(str(path)).name == "mine"
    with pytest.raises(DatasetError, match=r"absent\.npz: there is no such file"):
        default_protocol("absent.npz")


@pytest.mark.parametrize("function", [load_dataset, default_protocol])
def test_unknown_name(function: Callable[[str], object]) -> None:
    with pytest.raises(UnknownName, match=r"unknown dataset 'planetoid/cora'.*Did you mean 'planetoid/Cora'\?"):
        function("planetoid/cora")


def test_yelp_is_known_but_not_built(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="multi-label targets are not built yet"):
        load_dataset("Yelp", tmp_path)


def test_dataset_table_says_what_is_found(tmp_path: Path) -> None:
    write("amazon/Photo", tmp_path)
    folder = write("planetoid/Cora", tmp_path)
    (folder / "raw/ind.cora.tx").unlink()
    table = dataset_table(tmp_path)
    assert list(table["name"]) == list(DATASETS)
    assert set(table[table["found"]]["name"]) == {"cora", "amazon/Photo"}
    row = table.set_index("name").loc["planetoid/PubMed"]
    assert (row["nodes"], row["directed edges"], row["features"], row["classes"]) == (19717, 88648, 500, 3)
    assert row["default split"] == "public"
    assert "Planetoid" in row["source"]


def test_order_of_data_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_data_root() == Path.home() / ".cache" / "lpgnas"
    monkeypatch.setenv("LPGNAS_DATA", str(tmp_path / "named"))
    assert resolve_data_root() == tmp_path / "named"
    assert resolve_data_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("LPGNAS_DATA", "")
    assert resolve_data_root() == Path.home() / ".cache" / "lpgnas"


def test_data_root_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("Flickr", tmp_path)
    monkeypatch.setenv("LPGNAS_DATA", str(tmp_path))
    assert_is_tiny(load_dataset("Flickr"), "Flickr")


# Every raw format


@pytest.mark.parametrize("name", WRITERS)
def test_loads_raw_files_and_keeps_the_cache(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(name, tmp_path)
    raw = tree(tmp_path)
    graph = load_dataset(name, tmp_path)
    assert_is_tiny(graph, name)
    assert not isinstance(graph.x, np.ndarray)
    assert graph.x.has_canonical_format
    processed = str((folder / dataset_sources.LAYOUTS[name].processed).relative_to(tmp_path))
    assert tree(tmp_path) >= raw | {processed}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.name.startswith(".")]
    assert_is_tiny(load_dataset(name, tmp_path), name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["planetoid/CiteSeer", "amazon/Photo", "ogbn-arxiv"])
def test_read_only_root_is_left_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(name, tmp_path)
    before = tree(tmp_path)
    read_only(monkeypatch)
    assert_is_tiny(load_dataset(name, tmp_path), name)
    assert tree(tmp_path) == before


def test_files_are_copied_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(f"no links here: {self} -> {target}")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = write("Reddit", tmp_path)
    before = (folder / "raw/reddit_data.npz").stat().st_ino
    assert_is_tiny(load_dataset("Reddit", tmp_path), "Reddit")
    assert (folder / "raw/reddit_data.npz").stat().st_ino == before


def test_dense_features_stay_dense(tmp_path: Path) -> None:
    folder = write("Flickr", tmp_path)
    features = np.random.default_rng(0).random((513, 5))
    np.save(folder / "raw/feats.npy", features)
    graph = load_dataset("Flickr", tmp_path)
    assert isinstance(graph.x, np.ndarray)
    np.testing.assert_array_equal(graph.x, features.astype(np.float32))


# Damaged and missing files


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_file(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path)
    for file in dataset_sources.LAYOUTS[name].required:
        path = folder / file
        content = path.read_bytes()
        if not content or path.name.endswith("index"):
            continue
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(DatasetError, match="are damaged") as caught:
            load_dataset(name, tmp_path)
        assert str(folder) in str(caught.value)
        path.write_bytes(content)
    assert_is_tiny(load_dataset(name, tmp_path), name)


def test_labels_out_of_range_are_damage(tmp_path: Path) -> None:
    folder = write("Flickr", tmp_path)
    (folder / "raw/class_map.json").write_text('{"0": 1}')  # the reader gives the other nodes class -1
    with pytest.raises(DatasetError, match=r"Flickr are damaged: .*y\[1\] = -1 is negative"):
        load_dataset("Flickr", tmp_path)


@pytest.mark.parametrize("name", ["planetoid/Cora", "ogbn-products"])
def test_broken_cache(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path)
    load_dataset(name, tmp_path)
    cache = folder / dataset_sources.LAYOUTS[name].processed
    cache.write_bytes(cache.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"delete .*processed"):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_impossible_download_leaves_nothing(name: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    with pytest.raises(DatasetError, match="downloading failed") as caught:
        load_dataset(name, root)
    message = str(caught.value)
    assert repr(name) in message
    assert str(root / WRITERS[name][0]) in message
    assert dataset_sources.LAYOUTS[name].required[0] in message
    assert "--data-root" in message
    assert "LPGNAS_DATA" in message
    assert list(tmp_path.iterdir()) == []
    write(name, root)
    assert_is_tiny(load_dataset(name, root), name)


def test_half_a_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: InMemoryDataset) -> None:
        Path(self.raw_paths[0]).write_bytes(b"PK")

    monkeypatch.setattr("torch_geometric.datasets.Amazon.download", half)
    with pytest.raises(DatasetError, match=r"lacks raw/amazon_electronics_photo\.npz, and downloading failed"):
        load_dataset("amazon/Photo", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fetch(self: InMemoryDataset) -> None:
        calls.append(self.raw_paths[0])
        WRITERS["amazon/Photo"][1](Path(self.raw_dir).parent)

    monkeypatch.setattr("torch_geometric.datasets.Amazon.download", fetch)
    root = tmp_path / "new"
    for _ in range(2):
        assert_is_tiny(load_dataset("amazon/Photo", root), "amazon/Photo")
    assert len(calls) == 1
    assert tree(root) >= {"Amazon/Photo/raw/amazon_electronics_photo.npz", "Amazon/Photo/processed/data.pt"}
    assert dataset_table(root).set_index("name").loc["amazon/Photo", "found"]


def test_ogb_downloads_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ogbn = dataset_sources._import_ogbn("ogbn-products")

    def fetch(url: str, folder: str) -> str:
        files = write("ogbn-products", tmp_path / "served")
        archive = Path(folder) / Path(url).name
        with zipfile.ZipFile(archive, "w") as served:
            for file in sorted(files.rglob("*")):
                served.write(file, Path("products") / file.relative_to(files))
        return str(archive)

    monkeypatch.setattr(ogbn, "download_url", fetch)
    root = tmp_path / "root"
    for _ in range(2):
        assert_is_tiny(load_dataset("ogbn-products", root), "ogbn-products")
    assert (root / "ogb/ogbn_products/RELEASE_v1.txt").is_file()


def test_ogb_that_exits_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(url: str, folder: str) -> str:
        raise SystemExit(-1)

    monkeypatch.setattr(dataset_sources._import_ogbn("ogbn-arxiv"), "download_url", leave)
    with pytest.raises(DatasetError, match="SystemExit"):
        load_dataset("ogbn-arxiv", tmp_path)


def test_ogb_that_asks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ogbn = dataset_sources._import_ogbn("ogbn-arxiv")

    def ask(url: str, folder: str) -> str:
        return str(ogbn.input("Will you update the dataset now? (y/N)\n"))

    monkeypatch.setattr(ogbn, "download_url", ask)
    with pytest.raises(DatasetError, match="OGB asked 'Will you update"):
        load_dataset("ogbn-arxiv", tmp_path)
    assert not hasattr(ogbn, "input")


def test_ogb_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogb.nodeproppred", None)
    write("ogbn-arxiv", tmp_path)
    with pytest.raises(DatasetError, match=r"'ogbn-arxiv' needs the package ogb .*lpgnas\[ogb\]"):
        load_dataset("ogbn-arxiv", tmp_path)


@pytest.mark.parametrize("loaded", [True, False])
def test_ogb_does_not_look_for_updates(loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name == "ogb" or name.startswith("ogb.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "outdated", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "outdated", pytest)
    dataset_sources._import_ogbn("ogbn-arxiv")
    assert sys.modules["ogb.version"].check_outdated is None
    assert sys.modules.get("outdated") is (pytest if loaded else None)
    for module in [name for name in sys.modules if name == "ogb" or name.startswith("ogb.")]:
        monkeypatch.delitem(sys.modules, module)


def test_missing_files_in_a_read_only_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    with pytest.raises(DatasetError, match=r"lacks raw/ind\.cora\.x, .*not writable.*--data-root"):
        load_dataset("planetoid/Cora", tmp_path)


# Real data


def _real_root() -> Path | None:
    beside = Path(__file__).parents[2] / "shared" / "data"
    named = Path(os.environ["LPGNAS_DATA"]) if os.environ.get("LPGNAS_DATA") else beside
    names = ("planetoid/Cora", "planetoid/CiteSeer", "planetoid/PubMed", "amazon/Computers", "amazon/Photo")
    return None if any(dataset_sources.missing_files(name, named) for name in names) else named


REAL_ROOT = _real_root()


@pytest.mark.skipif(
    REAL_ROOT is None,
    reason="the three Planetoid and two Amazon graphs are not there: name their folder with LPGNAS_DATA",
)
@pytest.mark.parametrize(
    ("name", "counts", "sizes"),
    [
        ("planetoid/Cora", (2708, 10556, 1433, 7), (140, 500, 1000)),
        ("planetoid/CiteSeer", (3327, 9104, 3703, 6), (120, 500, 1000)),
        ("planetoid/PubMed", (19717, 88648, 500, 3), (60, 500, 1000)),
        ("amazon/Computers", (13752, 491722, 767, 10), (200, 300, 13252)),
        ("amazon/Photo", (7650, 238162, 745, 8), (160, 240, 7250)),
    ],
)
def test_real_counts(name: str, counts: tuple[int, int, int, int], sizes: tuple[int, int, int], tmp_path: Path) -> None:
    assert REAL_ROOT is not None
    layout = dataset_sources.LAYOUTS[name]
    for file in layout.required:  # links: the tests write nothing into the real folder
        link = tmp_path / layout.folder / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((REAL_ROOT / layout.folder / file).resolve())
    graph = load_dataset(name, tmp_path)
    assert (graph.num_nodes, graph.num_edges, graph.num_features, graph.num_classes) == counts
    row = DATASETS[name]
    assert (row.nodes, row.edges, row.features, row.classes) == counts
    split = make_split(graph, default_protocol(name), seed=0)
    assert tuple(int(mask.sum()) for mask in (split.train, split.val, split.test)) == sizes
