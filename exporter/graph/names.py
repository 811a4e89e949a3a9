"""Names for the nodes of an exported graph: ``<block>/<module path in the block>/<op type>[_n]``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch.fx import Node

from vggt_edge.runtimes.base import TOP


class Namer:
    """Knows the blocks, and hands out each name once. The order of the calls decides the suffixes.

    paths: of the model's modules. Block names may leave out outer modules (``frame_blocks.0`` for
    ``aggregator.frame_blocks.0``): such a wrapper is left out of the names of everything else inside it as well.
    """

    def __init__(self, blocks: Iterable[str], paths: Iterable[str]) -> None:
        self.blocks = tuple(blocks)
        self.paths = tuple(paths)
        self._used: Counter[str] = Counter()

    @cached_property
    def _wrappers(self) -> tuple[str, ...]:
        """Module paths in front of the blocks, with a trailing dot, longest first."""
        found = {
            path[: path.index(f".{block}") + 1]
            for block in self.blocks
            for path in self.paths
            if f".{block}." in f"{path}." and not f"{path}.".startswith(f"{block}.")
        }
        return tuple(sorted(found, key=len, reverse=True))

    def local(self, path: str) -> str:
        """``path`` without a wrapper in front."""
        for wrapper in self._wrappers:
            if path.startswith(wrapper):
                return path[len(wrapper) :]
        return path

    def scope(self, path: str) -> str:
        """Block and module path, joined by ``/``; the bare module path outside the blocks."""
        local = self.local(path)
        for block in self.blocks:
            if local == block:
                return block
            if local.startswith(f"{block}."):
                return f"{block}/{local[len(block) + 1 :]}"
        return local or TOP

    def unique(self, name: str) -> str:
        """``name``, with ``_1``, ``_2``, ... from its second use on."""
        count = self._used[name]
        self._used[name] += 1
        return f"{name}_{count}" if count else name


@dataclass(frozen=True)
class Place:
    """Where one stage stands in the model. module: path of its module; the stage's program calls it ``module``."""

    stage: str
    module: str
    namer: Namer

    def path(self, inner: str) -> str:
        """The path in the model of what the stage's program calls ``inner``; empty for the stage's own code."""
        _, _, rest = inner.partition(".")
        return ".".join(part for part in (self.module, rest) if part) if inner else ""

    def name(self, inner: str) -> str:
        """The name of a stored tensor."""
        return self.namer.local(self.path(inner))

    def scope(self, inner: str) -> str:
        """What the names of nodes begin with."""
        return self.namer.scope(self.path(inner))


def module_path(node: Node) -> str:
    """Path of the module whose forward made ``node``, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry[0] for entry in stack.values()]
    # A module that runs several times is traced as "path@1", "path@2", ...
    return re.sub(r"@\d+", "", entries[-1]) if entries else ""
