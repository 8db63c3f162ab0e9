"""The macro-architecture of a model: how many blocks it has, and what each reads (PDNAS's router, Zhao et al. 2020).

A search space has a group of genes for every block of its deepest models. A model of fewer blocks leaves out the last
hidden groups; the output block always has the last group. Routes are genes too: one for each earlier source of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from lpgnas.spec import INPUT

Route = tuple[int, int]
"""A group of genes, and the source that its block may read: `INPUT` or an earlier hidden group."""


@dataclass(frozen=True)
class Macro:
    """The blocks of a model that are read, first to last.

    Attributes:
        groups: the group of genes of each block.
        sources: what each block reads, by number of the block: `INPUT` or an earlier one.
        open_routes: the routes that could have been chosen otherwise.
    """

    groups: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]
    open_routes: frozenset[Route]

    @property
    def is_chain(self) -> bool:
        """Whether every block reads the block before it alone."""
        return all(sources == (index - 1,) for index, sources in enumerate(self.sources))


@lru_cache(maxsize=64)
def all_routes(depth: int) -> tuple[Route, ...]:
    """Every route of `depth` groups; the first block reads the input and has none."""
    return tuple((group, source) for group in range(1, depth) for source in range(INPUT, group))


@lru_cache(maxsize=1 << 14)
def derive(blocks: int, depth: int, chosen: frozenset[Route]) -> Macro:
    """The macro-architecture of `blocks` blocks out of `depth` groups, with the chosen routes.

    A block for which no source is chosen reads the block before it. Blocks that nobody reads are left out.
    """
    groups = [*range(blocks - 1), depth - 1]
    sources: list[tuple[int, ...]] = [(INPUT,)]
    for index in range(1, blocks):
        routed = tuple(source for source in range(INPUT, index) if (groups[index], source) in chosen)
        sources.append(routed or (index - 1,))
    read = {blocks - 1}
    for index in reversed(range(blocks)):
        read |= set(sources[index]) - {INPUT} if index in read else set()
    number = {INPUT: INPUT} | {index: place for place, index in enumerate(sorted(read))}
    return Macro(
        groups=tuple(groups[index] for index in sorted(read)),
        sources=tuple(tuple(number[source] for source in sources[index]) for index in sorted(read)),
        open_routes=frozenset((groups[index], source) for index in read if index for source in range(INPUT, index)),
    )


def routings(blocks: int, depth: int, *, routes: bool) -> Iterator[frozenset[Route]]:
    """Every choice of routes that differs in an open route, for models of `blocks` blocks; none chosen comes first."""
    free = sorted(derive(blocks, depth, frozenset(all_routes(depth))).open_routes) if routes else []
    for picked in product((False, True), repeat=len(free)):
        chosen = frozenset(route for route, taken in zip(free, picked, strict=True) if taken)
        if chosen <= derive(blocks, depth, chosen).open_routes:
            yield chosen
