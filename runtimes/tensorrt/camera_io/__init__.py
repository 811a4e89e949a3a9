"""Camera frames straight into the engine: pre- and postprocessing inside the graph (docs/how-to/fuse-camera-io.md)."""
