"""Names of what the backend writes, and of what travels between a session and its worker, which imports them too."""

FOLDER = "executorch"
PROGRAM, WEIGHTS = "vggt.pte", "vggt.ptd"
MODEL_FILE = "model.json"
INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"
METHOD = "forward"
