"""Authorship: who made a bundle, shown by a signature that no recomputed digest can replace.

The signature is the file ``model.sig`` in the format of OpenSSF Model Signing (docs/decisions/013).
"""
