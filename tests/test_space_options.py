"""What users say of the search space: names, lists, and what is refused before anything is written."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs

import lpgnas
from lpgnas.components import Component
from lpgnas.config import SPACE_OPTIONS, RunConfig
from lpgnas.errors import ConfigError, LpgnasError, SpecError, UnknownName
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, Activation
from lpgnas.preparation import default_search_space, search_space
from lpgnas.search_space import SearchSpace
from lpgnas.space_options import LISTS, space_arguments
from lpgnas.spec import ModelSpec

EVERY_LIST: dict[str, Any] = {
    "blocks": (2, 3), "attentions": ("gat", "gcn"), "aggregations": ("max", "sum"), "activations": ("tanh", "relu"),
    "widths": (8, 4), "heads": (2, 1), "shortcuts": ("linear", "none"), "weight_formats": ("fixed4", "binary"),
    "code_bits": (8, 4), "kept_words": ("1", "1/4"),
}  # fmt: skip


def made(space: str = "default", routes: bool | None = None, **lists: Any) -> SearchSpace:
    return SearchSpace(20, 4, **space_arguments(space, routes, lists))


def test_nothing_said_is_the_default_space() -> None:
    assert made() == SearchSpace(20, 4)
    default: dict[str, Any] = {name: getattr(SearchSpace(1, 1), name) for name in LISTS}
    assert made(**default) == SearchSpace(20, 4)
    turned: dict[str, Any] = {name: options[::-1] for name, options in default.items()}
    assert made(**turned) == SearchSpace(20, 4)


def test_the_whole_space_has_every_operator_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    swish = Activation("swish", signed=True, function=lambda x: x / (1.0 + np.exp(-x)))
    monkeypatch.setitem(ACTIVATIONS._entries, "swish", swish)  # registered by a user
    space = made("whole")
    for options, known in (
        (space.attentions, ATTENTIONS),
        (space.aggregations, AGGREGATIONS),
        (space.activations, ACTIVATIONS),
    ):
        assert set(options) == set(known.names())
    assert space.blocks == (1, 2, 3, 4) and space.routes
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        for layer in space.spec(space.draw(rng)).layers:
            seen |= {layer.attention, layer.aggregation, layer.activation, *map(str, layer.formats.values())}
    assert {*ATTENTIONS.names(), *AGGREGATIONS.names(), *ACTIVATIONS.names()} <= seen
    assert {"binary", "ternary", *(f"fixed{bits}" for bits in range(2, 9))} <= seen


def test_lists_narrow_a_space_whatever_their_order() -> None:
    space = made(**EVERY_LIST)
    assert (space.blocks, space.widths, space.heads, space.code_bits) == ((2, 3), (4, 8), (1, 2), (4, 8))
    assert space.attentions == ("gcn", "gat") and space.aggregations == ("sum", "max")
    assert space.activations == ("relu", "tanh") and space.weight_formats == ("binary", "fixed4")
    assert made("whole", routes=False, blocks=(2,)).routes is False
    assert made("whole", attentions=("const", "gcn"), aggregations=("max",)).attentions == ("gcn", "const")
    rng = np.random.default_rng(1)
    for _ in range(50):
        for layer in space.spec(space.draw(rng)).layers:
            weights = {str(layer.formats[part]) for part in (Component.LINEAR_WEIGHT,)}
            assert weights <= {"binary", "fixed4"} and layer.attention in ("gcn", "gat")


@pytest.mark.parametrize("text", ["0", "2", "half", "1/0", "-1/2", "nan", "1 2"])
def test_shares_of_words_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"kept_words of the search space holds '{text}'; give each share above 0"):
        made(kept_words=("1", text))


def test_shares_of_words() -> None:
    assert made(kept_words=("1", "1/8", "0.5")).kept_words == (0.125, 0.5, 1.0)
    assert made(kept_words=("1",)).kept_words == (1.0,)
    with pytest.raises(ConfigError, match=r"holds '0\.5'; .* once"):
        made(kept_words=("1/2", "0.5"))


def test_shares_that_are_no_choice_on_a_graph_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kept_words 9/10, 1: of 1433 words only 1433 kept ones are choices"):
        lpgnas.space("cora", kept_words=("9/10", "1"))


def test_every_single_option_makes_a_space() -> None:
    """Whatever one option a list is narrowed to, the cheapest still comes first and draws are models."""
    whole, rng = made("whole"), np.random.default_rng(2)
    for name in LISTS:
        for option in getattr(whole, name):
            if name in ("heads", "shortcuts") and option != getattr(whole, name)[0]:
                continue
            one: dict[str, Any] = {name: (option,)}
            space = made("whole", **one)
            assert getattr(space, name) == (option,)
            space.spec(space.draw(rng))


REFUSED: list[tuple[dict[str, Any], type[LpgnasError], str]] = [
    ({"space": "all"}, UnknownName, "unknown search space 'all'.*Known: default, whole"),
    (
        {"attentions": ("gcn", "gatt")},
        UnknownName,
        r"unknown attention 'gatt'\. Did you mean 'gat'\? Known: const, cos",
    ),
    ({"aggregations": ("median",)}, UnknownName, "unknown aggregation 'median'.*Known: max, mean, sum"),
    ({"activations": ("gelu",)}, UnknownName, "unknown activation 'gelu'.*Known: elu, leaky_relu, none"),
    ({"shortcuts": ("identity",)}, UnknownName, "unknown shortcut 'identity'.*Known: linear, none"),
    ({"weight_formats": ("int4",)}, SpecError, "unknown number format 'int4'; write binary, ternary, fixed1"),
    ({"weight_formats": ("float32",)}, ConfigError, "holds float32; each must be binary, ternary, or fixed2 to fixed8"),
    ({"weight_formats": ("fixed9",)}, ConfigError, "holds fixed9"),
    ({"code_bits": (4, 9)}, ConfigError, "code_bits of the search space holds 9; each must be in 2 to 8"),
    ({"code_bits": (1,)}, ConfigError, "holds 1"),
    ({"blocks": (0, 1)}, ConfigError, "blocks of the search space holds 0; each must be in 1 to 8"),
    ({"widths": (8, 8)}, ConfigError, "widths of the search space: 8, 8 holds an option twice"),
    ({"blocks": (6,), "routes": True}, ConfigError, "routes among 6 blocks are too many to search; use 5 at most"),
    ({"blocks": (1,), "routes": True}, ConfigError, "routes are of models with at least 2 blocks"),
    ({"blocks": (1,), "widths": (8,)}, ConfigError, "widths are of models with at least 2 blocks"),
    ({"heads": (2, 4)}, ConfigError, r"heads of the search space must begin with 1, got \(2, 4\)"),
    ({"heads": (1, 2), "attentions": ("gcn",)}, ConfigError, "heads are of learned attentions, and gcn are none"),
    ({"heads": (1, 3)}, ConfigError, "3 heads divide none of the widths 4, 8"),
    ({"attentions": ("gcn",), "aggregations": ("max",)}, ConfigError, "aggregation max goes with none of.* gcn"),
    ({"attentions": ("gat", "cos")}, ConfigError, "attentions gat, cos: .*; add gcn, const or self, or choose one"),
    ({"strategy": "uniform", "widths": (8,)}, ConfigError, "widths says what is searched, but the strategy uniform"),
    ({"spec": "spec.json", "space": "whole"}, ConfigError, "space says what is searched, but the spec is given"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_is_refused(options: dict[str, Any], error: type[LpgnasError], message: str) -> None:
    if options.get("heads") == (1, 3):
        options = {**options, "widths": (4, 8)}
    with pytest.raises(error, match=message):
        RunConfig("cora", **options)


def test_toml_round_trip() -> None:
    assert set(EVERY_LIST) | {"space", "routes"} == set(SPACE_OPTIONS)
    config = RunConfig("cora", space="whole", routes=False, **EVERY_LIST)
    assert RunConfig.from_toml(config.to_toml()) == config
    assert tomllib.loads(config.to_toml())["blocks"] == [2, 3]
    assert "routes" not in tomllib.loads(RunConfig("cora").to_toml())
    for text, message in (
        ('blocks = "2"', "config key blocks must be a list of int, got '2'"),
        ('widths = ["8"]', "config key widths must be a list of int"),
        ("attentions = [1]", "config key attentions must be a list of str"),
        ("routes = 1", "config key routes must be of type bool, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            RunConfig.from_toml(f'dataset = "cora"\n{text}\n')


def test_a_config_decides_the_space_of_a_graph() -> None:
    graph = runs.small_graph()
    config = RunConfig("graph.npz", attentions=("gcn",), widths=(4,))
    expected = replace(default_search_space(graph), attentions=("gcn",), widths=(4,))
    assert search_space(graph, config) == expected


def test_a_run_over_a_narrowed_space(small_npz: Path, tmp_path: Path) -> None:
    flags = ("--blocks", "2,3", "--routes", "--attentions", "self,gcn", "--widths", "4", "--code-bits", "6,8")
    options = ("--quiet", "--dataset", small_npz, *runs.QUICK, "--no-distillation")
    done = runs.lpgnas("run", *options, *flags, "--weight-formats", "fixed4", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    spec = ModelSpec.from_json((tmp_path / "run/spec.json").read_text())
    for layer in spec.layers:
        assert layer.attention in ("self", "gcn") and str(layer.formats[Component.LINEAR_WEIGHT]) == "fixed4"
        assert {fmt.bits for part, fmt in layer.formats.items() if part is not Component.LINEAR_WEIGHT} <= {6, 8}
    kept = RunConfig.from_toml((tmp_path / "run/config.toml").read_text())
    assert kept.blocks == (2, 3) and kept.routes and kept.attentions == ("self", "gcn")
    assert "<td>self, gcn</td>" in (tmp_path / "run/report.html").read_text()
    again = runs.lpgnas("run", *options, *flags, "--weight-formats", "fixed4", "--out", tmp_path / "run")
    assert again.code == 0, again.err


def test_refused_before_anything_is_written(small_npz: Path, tmp_path: Path) -> None:
    for flags, message in (
        (("--attentions", "gcn,gta"), "unknown attention 'gta'. Did you mean 'gat'?"),
        (("--aggregations", "max", "--attentions", "gcn"), "aggregation max goes with none of the attentions gcn"),
        (("--blocks", "two"), "'two' is not a list of whole numbers such as 2,3,4"),
        (("--attentions", "gcn,,gat"), "'gcn,,gat' is not a list such as A,B,C"),
    ):
        for command in ("run", "sweep"):
            done = runs.lpgnas(command, "--dataset", small_npz, *flags, "--out", tmp_path / "run")
            assert done.code == 2
            assert message in done.err
            assert not (tmp_path / "run").exists()


def test_python_takes_the_same(small_npz: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"epochs": 5, "candidates": 2, "supernet_steps": 4, "restarts": 1, "max_degree": 40}
    quick |= {"distillation": False, "reference_seeds": 0}
    result = lpgnas.search(str(small_npz), **quick, attentions=["const"], widths=[4], blocks=[3])
    assert [layer.attention for layer in result.spec.layers] == ["const"] * 3
    budgets = {"weights": ["1KiB"]}
    swept = lpgnas.sweep(str(small_npz), budgets, out=tmp_path / "sweep", **quick, attentions=["gcn"], widths=[4])
    spec = next(iter(swept.runs.values())).spec
    assert {layer.attention for layer in spec.layers} == {"gcn"}
    assert 'attentions = ["gcn"]' in (tmp_path / "sweep/sweep.toml").read_text()


def test_an_operator_of_ones_own_in_one_file(small_npz: Path, tmp_path: Path) -> None:
    """The module in docs/search_space.md: searched, trained, lowered, exported and verified in every form."""
    told = (runs.ROOT / "docs/search_space.md").read_text()
    module = next(part for part in told.split("```python\n") if part.startswith("# source_only.py"))
    (tmp_path / "source_only.py").write_text(module.split("```")[0])
    script = tmp_path / "use.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import source_only, lpgnas\n"
        "assert 'source-only' in lpgnas.space('cora', space='whole').space.attentions\n"
        f"run = lpgnas.run({str(small_npz)!r}, epochs=5, candidates=2, supernet_steps=4, restarts=1, max_degree=40,\n"
        "    reference_seeds=0, distillation=False, attentions=('source-only',), activations=('swish',), out='run')\n"
        "assert [(layer.attention, layer.activation) for layer in run.spec.layers] == "
        "[('source-only', 'swish'), ('source-only', 'none')]\n"
        "assert run.record['stages']['verify']['passed']\n"
    )
    done = runs.python(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
