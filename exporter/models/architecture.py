"""What an architecture says of itself, once: one file ``exporter/models/<name>.py`` with an ``ARCHITECTURE``.

The rest of the package knows no architecture by name. ``docs/how-to/add-a-model.md`` is the tutorial.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from vggt_edge.calibration.metrics.output import Output, heads_of
from vggt_edge.calibration.stages.walk import IMAGES, Stage, run_stages
from vggt_edge.calibration.transforms.wiring import Wiring
from vggt_edge.devices.errors import UnknownNameError, UsageError
from vggt_edge.exporter.models.mapping import release_pages
from vggt_edge.exporter.models.shape import InputShape

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DEFAULT_FRAMES = 4
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ModelConfig(Protocol):
    """The sizes that make one model of an architecture differ from another; a frozen dataclass.

    - name: of the model, in reports.
    - embed_dim: width of a token.
    - heads: of an attention over all tokens.
    - native_resolution: long side in pixels that the model was trained for.
    """

    @property
    def name(self) -> str: ...

    @property
    def embed_dim(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def native_resolution(self) -> int: ...


class Model(nn.Module, ABC):
    """A model for a fixed input shape, written to be exported: a list of stages, and no branch on data.

    - about: what it is, in a line.
    - shape: of its input. outputs: what it puts out, in that order.
    """

    about: str
    shape: InputShape
    outputs: tuple[Output, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.outputs)

    @property
    def special_tokens(self) -> int:
        """How many tokens of each frame are no patches; they come first."""
        return self.shape.special_tokens

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, S, 3, H, W) in [0, 1] to the outputs."""
        values = run_stages(self.stages(), {IMAGES: images, **self.constants()}, kept=self.output_names)
        return tuple(values[name] for name in self.output_names)

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The forward, step by step: what each stage reads and writes, and the module with its weights."""

    @abstractmethod
    def blocks(self) -> dict[str, nn.Module]:
        """The units of precision assignment by name, in the order in which the model runs them."""

    @abstractmethod
    def wiring(self) -> Wiring:
        """What the exact transforms need to know."""

    def constants(self) -> dict[str, Tensor]:
        """By name, tensors that stages read besides, such as position tables that many of them share."""
        return {}

    def release(self, stage: Stage) -> None:
        """Give back the memory that the stage's weights take, where they are mapped from a file."""
        release_pages(stage.module.parameters())

    def example_input(self) -> Tensor:
        """Zeros of the input shape, for tracing only."""
        return torch.zeros(1, self.shape.frames, 3, self.shape.height, self.shape.width)

    def fix_constants(self) -> Self:
        """After loading: make everything that depends only on weights and the input size a constant. Returns self."""
        return self.eval().requires_grad_(False)


class Architecture(ABC):
    """One family of models.

    - about: what it is, in a line.
    - keys: names of tensors that every checkpoint of it has and, together, none of another architecture.
    - outputs: all that it can put out.
    - components: title in reports of each group of blocks, by the first part of a block's name.
    - config_type: the frozen dataclass of its sizes.
    - patch: side of a patch in pixels. special_tokens: tokens of a frame that are no patches.
    - default_frames: of an input, where the user does not say.
    - lookalike_of: the architecture that has the same names; this one is then taken only where it is asked for, or
      where the origin of the weights names it.
    - optional: prefixes of tensors that are left out where the built model has none of that prefix.
    - head_prefixes: by head, the prefix of its tensors; empty where every checkpoint has every head.
    - shared: by name, another name under which a file may hold the same tensor, because the authors' modules share it.
    - buffers: by name, values of constants that some checkpoints store and that the model has built in.
    """

    about: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[Output, ...]]
    config_type: ClassVar[type[DataclassInstance]]
    components: ClassVar[Mapping[str, str]] = _NOTHING
    patch: ClassVar[int]
    special_tokens: ClassVar[int] = 0
    default_frames: ClassVar[int] = DEFAULT_FRAMES
    lookalike_of: ClassVar[str] = ""
    optional: ClassVar[tuple[str, ...]] = ()
    head_prefixes: ClassVar[Mapping[str, str]] = _NOTHING
    shared: ClassVar[Mapping[str, str]] = _NOTHING
    buffers: ClassVar[Mapping[str, tuple[float, ...]]] = _NOTHING

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def heads(self) -> tuple[str, ...]:
        """What ``--outputs`` may name."""
        return heads_of(self.outputs)

    @abstractmethod
    def build(self, config: Any, shape: InputShape, heads: Sequence[str]) -> Model:
        """A model with these sizes and heads, without weights. config: of ``config_type``."""

    def default_config(self, tensors: Mapping[str, Tensor]) -> ModelConfig | None:
        """The sizes of a checkpoint that does not say them; None where it has to.

        ``ValueError`` for tensors of a size that is not supported.
        """
        return None

    def adapted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of a file as the built model has them, where its authors store some in another form.

        ``ValueError`` for values that this form cannot have.
        """
        return tensors

    def sizes(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Widths and depths by what they are called, as far as names and shapes give them away."""
        return {}

    def is_named_in(self, origin: str) -> bool:
        """Whether an id or a path speaks of this architecture."""
        return self.name in origin.lower().replace("-", "").replace("_", "")

    def notes(self, origin: str) -> tuple[str, ...]:
        """What a user should know about weights that do not say their sizes. origin: the id or path they come from."""
        return ()

    def read_config(self, text: str) -> ModelConfig:
        """The sizes out of an untrusted file: exactly the known fields, else ``ValueError``."""
        try:
            config: ModelConfig = TypeAdapter[Any](self.config_type).validate_json(text, strict=True, extra="forbid")
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise ValueError(f"{place}: {problem['msg']}" if place else problem["msg"]) from error
        return config

    def write_config(self, config: Any) -> str:
        """What ``read_config`` reads."""
        return json.dumps(asdict(config), sort_keys=True)

    def shape(self, frames: int, height: int, width: int) -> InputShape:
        """An input of this architecture; ``UsageError`` for sides that are not made of whole patches."""
        return InputShape(frames, height, width, self.patch, self.special_tokens)

    def checked_heads(self, heads: Sequence[str]) -> tuple[str, ...]:
        """Heads in declared order, each once; ``UnknownNameError`` for one that does not exist."""
        for name in heads:
            if name not in self.heads:
                raise UnknownNameError("output", name, self.heads)
        if not heads:
            raise UsageError("no outputs were requested", expected=f"some of {', '.join(self.heads)}")
        return tuple(name for name in self.heads if name in heads)

    def heads_in(self, names: Collection[str]) -> tuple[str, ...]:
        """The heads whose tensors are among ``names``."""
        prefixes = {head: self.head_prefixes.get(head, "") for head in self.heads}
        return tuple(head for head, prefix in prefixes.items() if any(name.startswith(prefix) for name in names))
