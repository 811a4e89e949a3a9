"""A bundle's ``leapp.yaml`` read and run by LEAPP's own inference manager. Run by hand.

``leapp_bundle.py BUNDLE``: SQNR in dB of every output against the golden tensors. Needs ``pip install leapp``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

NODE = "vggt"


def sqnr_db(actual: Any, expected: Any) -> float:
    noise = np.linalg.norm(actual.astype(np.float64) - expected)
    return float(20 * np.log10(np.linalg.norm(expected) / noise))


def main() -> None:
    import torch
    from leapp.inference_manager import InferenceManager  # type: ignore[import-not-found, unused-ignore]

    folder = Path(sys.argv[1]) / "tensorrt"
    golden = load_file(folder / "golden.safetensors")
    manager = InferenceManager(str(folder / "leapp.yaml"))
    outputs = manager.run_policy({f"{NODE}/images": torch.from_numpy(golden["input/images"])})
    print("| output | dB |\n|---|---|")
    for name, values in outputs.items():
        output = name.removeprefix(f"{NODE}/")
        print(f"| {output} | {sqnr_db(values.numpy(), golden[f'expected/{output}']):.1f} |")


if __name__ == "__main__":
    main()
