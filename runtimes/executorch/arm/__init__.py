"""A phone's own kernels on this machine: ExecuTorch's build for 64-bit ARM, emulated by QEMU.

The build is PyPI's, of the version that Android's library has, and with its weights cache on as there. Nothing but
the processor is emulated: no ARM system, no Python in it. ``install.py`` sets it up once.
"""
