"""Names of the files of an asset, and of those through which we and the worker talk."""

from __future__ import annotations

ASSET = "vggt.aimodel"
PROGRAM_FILE, HASH_FILE, METADATA_FILE = "main.mlirb", "main.hash", "metadata.json"
ASSET_FILES = (HASH_FILE, PROGRAM_FILE, METADATA_FILE)

PROGRAM, REQUEST = "program.pt2", "request.json"
INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"
