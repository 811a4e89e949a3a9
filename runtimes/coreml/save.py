"""Writes a MIL program as an ``.mlpackage``: the same program gives the same bytes.

coremltools writes the weights and the specification; the package around them is written here, because its own names
the parts by random numbers, dates the model and serialises its maps in any order.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vggt_edge.devices.errors import LoweringError
from vggt_edge.runtimes.coreml.sdk import load_coremltools, quiet
from vggt_edge.runtimes.coreml.translate import ImageInput

_AUTHOR = "com.apple.CoreML"
_MODEL, _WEIGHTS = "model.mlmodel", "weights"
_DATED = "com.github.apple.coremltools.conversion_date"


def save_package(
    program: Any,
    target: Path,
    *,
    ios: int,
    metadata: Mapping[str, str],
    descriptions: Mapping[str, str],
    about: str = "",
    images: ImageInput | None = None,
) -> None:
    """Write ``program`` to the folder ``target``, which must not exist.

    metadata: the free key-value part. descriptions: what each input and output is, by name. about: the model, in a
    line. ``LoweringError`` where coremltools refuses the program.
    """
    folder = target / "Data" / _AUTHOR
    folder.mkdir(parents=True)
    # Beside the target: by default coremltools leaves its package among the temporary files until the process ends.
    with TemporaryDirectory(prefix=".coremltools-", dir=target.parent) as scratch:
        model = _convert(program, ios, images, Path(scratch) / "converted.mlpackage")
        specification = model.get_spec()
        if model.weights_dir is not None:
            # Moved, not copied: a gigabyte for the full-size model.
            shutil.move(model.weights_dir, folder / _WEIGHTS)
    _describe(specification, metadata, descriptions, about)
    (folder / _MODEL).write_bytes(specification.SerializeToString(deterministic=True))
    (target / "Manifest.json").write_text(json.dumps(_manifest(), indent=4, sort_keys=True) + "\n")


def _convert(program: Any, ios: int, images: ImageInput | None, package: Path) -> Any:
    """Convert into ``package``, without passes: every operator and every type is what the translation chose."""
    ct = load_coremltools()
    given = {}
    if images is not None:
        shape = (1, 3, images.height, images.width)
        given["inputs"] = [ct.ImageType(name=name, shape=shape, color_layout="RGB") for name in images.names]
    try:
        with quiet():
            return ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
                pass_pipeline=ct.PassPipeline.EMPTY,
                package_dir=str(package),
                **given,
            )
    except (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise LoweringError(
            f"coremltools {ct.__version__} refuses the program: {error}",
            where="Core ML",
            expected="a program that converts",
            remedy="look the message up in docs/runtimes/coreml.md",
        ) from error


def _describe(specification: Any, metadata: Mapping[str, str], descriptions: Mapping[str, str], about: str) -> None:
    described = specification.description
    for feature in (*described.input, *described.output):
        feature.shortDescription = descriptions.get(feature.name, "")
    user = described.metadata.userDefined
    user.pop(_DATED, None)
    for key, value in metadata.items():
        user[key] = value
    described.metadata.shortDescription = about
    described.metadata.author = "vggt-edge"


def _manifest() -> dict[str, Any]:
    parts = {_MODEL: "CoreML Model Specification", _WEIGHTS: "CoreML Model Weights"}
    # Any fixed numbers will do; these are of the names.
    keys = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_AUTHOR}/{name}")).upper() for name in parts}
    entries = {
        keys[name]: {"author": _AUTHOR, "description": text, "name": name, "path": f"{_AUTHOR}/{name}"}
        for name, text in parts.items()
    }
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": keys[_MODEL]}
