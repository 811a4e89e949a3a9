"""Scenes: their type, readers of files, a renderer of synthetic rooms, and the choice of scenes to calibrate on."""
