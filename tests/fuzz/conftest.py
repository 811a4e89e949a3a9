"""The fuzzer is a set of scripts, which import each other by plain names; so must its tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
