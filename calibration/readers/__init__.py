"""Readers of scenes: videos, COLMAP models, nerf-style transforms.json, folders of images, folders of all these."""

from vggt_edge.calibration.readers.opening import open_scenes

__all__ = ["open_scenes"]
