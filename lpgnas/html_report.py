"""The report of a run as one self-contained HTML page: no script, nothing fetched, light, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lpgnas.budget import format_bits
from lpgnas.components import Component
from lpgnas.cost_models.energy import format_energy
from lpgnas.html_style import STYLE
from lpgnas.markup import Html, element, joined
from lpgnas.operators import ACTIVATIONS, ATTENTIONS
from lpgnas.plots import pareto_panels, pareto_svg, svg_legend
from lpgnas.results import STAGES
from lpgnas.run_facts import RunFacts, percent
from lpgnas.spec import INPUT, LayerSpec, ModelSpec

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_report(facts: RunFacts) -> str:
    """The page, as far as the run has come; the same bytes for the same facts."""
    name = facts.dataset["name"]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("link", rel="icon", href="data:,"),
        element("title", f"lpgnas: run on {name}"),
        element("style", Html(STYLE)),
    )
    sections = (
        _header(facts),
        _section("budget", "Budget and use", _budget(facts)),
        _section("accuracy", "Accuracy", _accuracy(facts)),
        _section("architecture", "Architecture", _architecture(facts)),
        _section("candidates", "Candidates", _candidates(facts)),
        _section("verification", "Verification", _verification(facts)),
        _section("components", "Components", _components(facts)),
        _section("record", "Record", _record(facts)),
    )
    page = element("html", head, element("body", element("main", *sections)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _section(name: str, title: str, content: Html) -> Html:
    return element("section", element("h2", title), content, id=name)


def _waiting(stage: str) -> Html:
    return element("p", f"Not yet: the stage “{stage}” has not been done.", class_="note")


def _table(header: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = ()) -> Html:
    """A table that scrolls by itself where it is too wide; columns of `numeric` are aligned to the right."""
    right = frozenset(numeric)

    def cells(tag: str, values: Sequence[object]) -> Html:
        made = (element(tag, value, class_="number" if k in right else None) for k, value in enumerate(values))
        return element("tr", *made)

    body = element("tbody", *(cells("td", row) for row in rows))
    table = element("table", element("thead", cells("th", header)), body)
    return element("div", table, class_="scroll")


# --- header ---


def _header(facts: RunFacts) -> Html:
    data = facts.dataset
    counts = (
        f"{data['num_nodes']:,} nodes, {data['num_edges']:,} edges, {data['num_features']:,} features, "
        f"{data['num_classes']} classes"
    )
    return element(
        "header",
        element("p", "lpgnas ", facts.record["lpgnas_version"], class_="eyebrow"),
        element("h1", f"Run on {data['name']}"),
        element("p", counts, class_="lead"),
        element("div", *_tiles(facts), class_="tiles"),
    )


def _tiles(facts: RunFacts) -> list[Html]:
    tiles = []
    if facts.accuracies:
        tiles.append(_tile("test accuracy", facts.accuracies[0][1], f"split “{facts.dataset['protocol']}”"))
    for size in facts.sizes[:2]:
        under = "no budget" if size.limit is None else f"of {size.limit_text}: {size.share}"
        tiles.append(_tile(size.what, size.text, under))
    if "verify" in facts.stages:
        comparisons = facts.stages["verify"]["comparisons"]
        mismatches = sum(item["mismatches"] for item in comparisons)
        compared = sum(item["compared"] for item in comparisons)
        state = "good" if facts.verified else "bad"
        tiles.append(_tile("mismatches", f"{mismatches:,}", f"in {compared:,} codes compared", state))
    missing = [stage for stage in STAGES if stage not in facts.stages]
    if missing:
        tiles.append(_tile("unfinished", f"{len(STAGES) - len(missing)} of {len(STAGES)}", f"next: {missing[0]}"))
    return tiles


def _tile(what: str, value: str, under: str, state: str = "") -> Html:
    return element(
        "div",
        element("span", what, class_="what"),
        element("strong", value),
        element("span", under, class_="under"),
        class_=f"tile {state}".rstrip(),
    )


# --- sizes and accuracies ---


def _budget(facts: RunFacts) -> Html:
    if not facts.sizes:
        given = element("p", f"Budget: {facts.budget}.")
        return joined(given, _waiting("lower"))
    rows = []
    for size in facts.sizes:
        share = None if size.limit is None else min(100.0, 100.0 * size.amount / size.limit)
        used = f"{size.text} of {size.limit_text}" if size.limit else f"{size.text}, no budget"
        over = size.limit is not None and size.amount > size.limit
        fill = element("span", class_="over" if over else None, style=f"width:{0.0 if share is None else share:.2f}%")
        bar = element("div", fill, class_="bar" if share is not None else "bar open")
        meaning = element("span", size.quantity.meaning, class_="quiet")
        label = element("div", element("strong", size.what), " ", meaning)
        value = element("div", element("span", used), _share(size.share), class_="used")
        rows.append(element("div", element("div", label, value, class_="line"), bar, class_="size"))
    lowered = facts.stages["lower"]
    foot = (
        f"Counted from the lowered program. Apart from these: {format_bits(lowered['node_coefficient_bits'])} of node "
        f"coefficients. {lowered['macs']:,} MACs, {lowered['bops']:,} BOPs{facts.energy}; proved for in-degrees up "
        f"to {lowered['max_degree']:,}."
    )
    return joined(*rows, element("p", foot, class_="note"))


def _share(text: str) -> Html:
    return element("span", text, class_="share") if text else joined()


def _accuracy(facts: RunFacts) -> Html:
    data = facts.dataset
    split = (
        f"Split “{data['protocol']}” (seed {data['split_seed']}): {data['train_nodes']:,} training, "
        f"{data['validation_nodes']:,} validation and {data['test_nodes']:,} test nodes; {facts.mode}. Half of the "
        "validation nodes stops trainings early, the other half selects; test nodes are looked at once, at the end."
    )
    protocol = element("p", split, class_="note")
    if not facts.accuracies:
        return joined(protocol, _waiting("evaluate"))
    evaluation = facts.stages["evaluate"]
    table = _table(["test accuracy", "", "from"], facts.accuracies, numeric=[1])
    others = [
        (f"{name} nodes", percent(evaluation["accuracy"][key]))
        for name, key in (("training", "train"), ("validation", "val"), ("test", "test"))
        if evaluation["accuracy"][key] is not None
    ]
    if "train" in facts.stages:
        others.append(("selection nodes, chosen training", percent(facts.stages["train"]["selection_accuracy"])))
    more = _table(["this model on", "accuracy"], others, numeric=[1])
    return joined(element("div", table, more, class_="pair"), protocol)


# --- architecture ---


def _architecture(facts: RunFacts) -> Html:
    spec = facts.spec
    if spec is None:
        return _waiting("search")
    normalised = ["rows normalised"] if spec.row_normalize else []
    if spec.input_words is not None:
        normalised.append(f"{spec.input_words:,} words kept, 0 bits for the others")
    signed = "signed" if spec.input_signed else "unsigned"
    source = element(
        "div",
        element("h3", "features"),
        _tensor("x", f"N × {spec.num_features:,}", str(spec.input_format), spec.input_format.bits),
        element("p", ", ".join([signed, *normalised]), class_="quiet"),
        class_="block end",
    )
    blocks = [_block(spec, index) for index in range(len(spec.layers))]
    sink = element(
        "div",
        element("h3", "logits"),
        element("p", f"{spec.num_classes} classes, codes times one power of two", class_="quiet"),
        class_="block end",
    )
    arrow = element("div", "→", class_="arrow", aria_hidden="true")
    flow: list[Html] = [source]
    for part in (*blocks, sink):
        flow += [arrow, part]
    key = f"One square is one stored bit of an element; N is the number of nodes. Rounding: {spec.rounding}."
    return joined(element("div", *flow, class_="flow"), element("p", key, class_="note"))


def _block(spec: ModelSpec, index: int) -> Html:
    layer, width = spec.layers[index], spec.input_width(index)
    heads = f", {layer.heads} heads" if layer.heads > 1 else ""
    title = element("h3", f"block {index}", element("span", f"{width:,} → {layer.width:,}{heads}", class_="quiet"))
    parts: list[Html] = [title]
    sources = spec.sources(index)
    if sources != (index - 1,):
        names = ", ".join("x" if source == INPUT else f"block {source}" for source in sources)
        parts.append(element("p", f"reads {names}", class_="step"))
    for step, tensors in _steps(layer, width):
        parts.append(element("p", step, class_="step"))
        for name, shape, component in tensors:
            choice = layer.formats[component]
            parts.append(_tensor(name, shape, str(choice), choice.bits))
    return element("div", *parts, class_="block")


def _steps(layer: LayerSpec, width: int) -> list[tuple[str, list[tuple[str, str, Component]]]]:
    """What a block does, in order, with the tensors of each step: name, shape, component."""
    rows, matrix = f"N × {layer.width:,}", f"{layer.width:,} × {width:,}"
    transform = [("linear weight", matrix, Component.LINEAR_WEIGHT), ("message", rows, Component.MESSAGE)]
    attention, aggregate = [], []
    score = ATTENTIONS.get(layer.attention).score
    if score is not None:
        attention.append(("attention weight", f"{len(score.weights)} × {layer.width:,}", Component.ATTENTION_WEIGHT))
        attention.append(("score", f"E × {layer.heads}, not stored", Component.SCORE))
    if layer.shortcut == "linear":
        aggregate.append(("shortcut weight", matrix, Component.LINEAR_WEIGHT))
        aggregate.append(("shortcut", rows, Component.MESSAGE))
    if ACTIVATIONS.get(layer.activation).function is not None:
        aggregate.append(("aggregate", rows, Component.AGGREGATE))
    near = "neighbours and self" if layer.self_loops else "neighbours"
    near = near if ATTENTIONS.get(layer.attention).neighbours else "self"
    skip = {"none": "", "identity": ", plus the input", "linear": ", plus a linear shortcut"}[layer.shortcut]
    last = Component.OUTPUT if Component.OUTPUT in layer.formats else Component.ACTIVATION
    return [
        ("transform", transform),
        (f"attention: {layer.attention}", attention),
        (f"{layer.aggregation} over {near}{skip}", aggregate),
        (f"activation: {layer.activation}", [(last.value, rows, last)]),
    ]


def _tensor(name: str, shape: str, choice: str, bits: int) -> Html:
    squares = element("span", *(element("i") for _ in range(min(bits, 32))), class_="bits", aria_hidden="true")
    width = f"{bits} bit" if bits == 1 else f"{bits} bits"
    return element(
        "div",
        element("span", name),
        element("span", shape, class_="quiet shape"),
        squares,
        element("span", width, title=choice, class_="width"),
        class_="tensor",
    )


# --- candidates ---


def _candidates(facts: RunFacts) -> Html:
    if facts.spec is None:
        return _waiting("search")
    if not facts.candidates:
        return element("p", "The spec was given; nothing was searched.", class_="note")
    search, panels = facts.stages["search"], pareto_panels(facts)
    refused = sum(one.accuracy < 0.0 for one in facts.candidates)
    told = f"{len(facts.candidates)} candidates, {search['steps']:,} training steps, all within the budget; "
    if any(one.epochs for one in facts.candidates):
        told += "each stands at the last rung that it reached, so that those left early were trained for less."
    else:
        told += "each was derived in the search round and is rated with its shared weights; the last one is trained."
    if refused:
        told += f" {refused} without an exact integer form are not drawn."
    for panel, limit in zip(panels, map(facts.budget.get, ("weight_bits", "buffer_bits")), strict=False):
        if limit is not None and panel.limit is None:
            told += f" The budget of {panel.title}, {format_bits(limit)}, lies to the right of the plot."
    plots = element("div", *(pareto_svg(panel) for panel in panels), class_="pair")
    rows = [
        (
            element("strong", one.number, " (chosen)") if one.number == facts.winner else one.number,
            one.rung + 1,
            one.epochs,
            one.note or f"{100 * one.score:.1f}",
            one.note or percent(one.accuracy),
            format_bits(one.weight_bits),
            format_bits(one.buffer_bits),
        )
        for one in facts.candidates
    ]
    header = ["candidate", "rungs", "epochs", "score", "selection accuracy", "weights", "buffers"]
    table = element("details", element("summary", "All candidates"), _table(header, rows, numeric=range(1, 7)))
    return joined(plots, svg_legend() if panels else "", element("p", told, class_="note"), table)


# --- verification ---


def _verification(facts: RunFacts) -> Html:
    if "verify" not in facts.stages:
        return _waiting("verify")
    comparisons: list[dict[str, Any]] = facts.stages["verify"]["comparisons"]
    graphs = list(dict.fromkeys(item["graph"] for item in comparisons))
    forms = list(dict.fromkeys(item["form"] for item in comparisons))
    cells = {(item["form"], item["graph"]): item for item in comparisons}
    rows = [[form, *(_agreement(cells.get((form, graph))) for graph in graphs)] for form in forms]
    told = (
        "Mismatching codes of each form of the model on each graph, the training graph first; every form is compared "
        "with the first one, code by code."
    )
    passed = facts.verified
    verdict = "Every form gives the same codes." if passed else "Some forms differ: the model must not be used."
    notes = [f"{item['form']} on {item['graph']}: {item['note']}" for item in comparisons if item["note"]]
    refused: dict[str, str] = facts.stages.get("export", {}).get("refused", {})
    notes += [f"no {name} file: {reason}" for name, reason in refused.items()]
    listed = element("ul", *(element("li", note) for note in notes)) if notes else ""
    return joined(
        element("p", verdict, class_="verdict good" if passed else "verdict bad"),
        _table(["form", *graphs], rows, numeric=range(1, len(graphs) + 1)),
        element("p", told, class_="note"),
        listed,
    )


def _agreement(item: dict[str, Any] | None) -> Html:
    if item is None:
        return element("span", "–", class_="quiet")
    if not item["compared"] and not item["failed"]:  # it was not run: no agreement either
        return element("span", "–", class_="quiet", title=item["note"] or None)
    of = element("span", f" / {item['compared']:,}", class_="quiet")
    mark = "✗" if item["failed"] else "✓"
    count = element("span", f"{mark} {item['mismatches']:,}", class_="bad" if item["failed"] else "good")
    return element("span", count, of, title=item["note"] or None)


# --- components and record ---

_TITLES = {
    "layer": "block",
    "what": "component",
    "bits": "bits",
    "weight_bits": "weights",
    "buffer_bits": "buffers",
    "macs": "MACs",
    "bops": "BOPs",
    "mixq_bitops": "MixQ BitOPs",
    "energy_aj": "energy",
    "latency_ns": "ns",
}


def _components(facts: RunFacts) -> Html:
    if not facts.costs:
        return _waiting("lower")
    names = list(facts.costs[0])
    rows = [[_cost_cell(name, row[name]) for name in names] for row in facts.costs]
    told = "Every array that is stored and every tensor that is computed; rows of the block “model” belong to no block."
    table = _table([_TITLES.get(name, name) for name in names], rows, numeric=range(2, len(names)))
    return joined(table, element("p", told, class_="note"))


def _cost_cell(name: str, text: str) -> object:
    if name == "layer":
        return "model" if text == "-1" else text
    if name == "what":
        return text.replace("_", " ")
    number = float(text or 0)
    if number == 0.0:
        return element("span", "–", class_="quiet")
    if name == "energy_aj":
        return format_energy(int(number))
    return format_bits(int(number)) if name in ("weight_bits", "buffer_bits") else f"{number:,.0f}"


def _option(value: object) -> object:
    """An option for people: a list with commas, a dash for one that says nothing."""
    if value in ("", None, []):
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _record(facts: RunFacts) -> Html:
    record, stages = facts.record, facts.stages
    total = sum(entry["seconds"] for entry in stages.values())
    times = [(name, f"{entry['seconds']:.1f}") for name, entry in stages.items()]
    times.append(("all", f"{total:.1f}"))
    options = [(name, _option(value)) for name, value in record["config"].items()]
    versions = [("lpgnas", record["lpgnas_version"]), *record["versions"].items()]
    files = [(name, element("code", digest)) for entry in stages.values() for name, digest in entry["files"].items()]
    files.append(("the graph", element("code", facts.dataset["graph_sha256"])))
    return joined(
        element(
            "div",
            _table(["stage", "seconds"], times, numeric=[1]),
            _table(["package", "version"], versions),
            _table(["option", "value"], options),
            class_="columns",
        ),
        _table(["file", "SHA-256"], files),
    )
