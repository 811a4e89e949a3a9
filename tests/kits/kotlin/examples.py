"""The examples in the README and the comments of the kit, as files that can be compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^( *(?:\* )?)```(kotlin|java)\n(.*?)^ *(?:\* )?```", flags=re.MULTILINE | re.DOTALL)
# What an app has at hand where it calls the kit.
_AROUND = """@file:Suppress("UNUSED_VARIABLE", "UNUSED_PARAMETER", "unused")

package example.{name}

import android.content.Context
import android.graphics.Bitmap
import android.util.Log
import io.vggtedge.*
import java.io.File

@Suppress("RedundantSuspendModifier")
internal suspend fun example(context: Context, folder: File, bitmaps: List<Bitmap>, model: VGGTModel) {{
{body}
}}
"""


def write(documents: list[Path], folder: Path) -> list[Path]:
    """One file per example in ``documents``: whole files as they are, statements inside of a function."""
    written = []
    for document in documents:
        for number, (language, text) in enumerate(blocks(document.read_text())):
            name = f"{re.sub('[^a-z]', '', document.stem.lower())}{number}"
            is_whole = re.search(r"^import ", text, flags=re.MULTILINE) is not None
            if language == "java":
                (title,) = re.findall(r"\bclass (\w+)", text)
                path = folder / name / f"{title}.java"
                content = f"package example.{name};\n\n{text}"
            else:
                path = folder / f"{name}.kt"
                content = f"package example.{name}\n\n{text}" if is_whole else _AROUND.format(name=name, body=text)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            written.append(path)
    return written


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each example; the stars of comments are taken away."""
    for margin, language, code in _FENCE.findall(text):
        yield language, re.sub(rf"^{re.escape(margin.rstrip())} ?", "", code, flags=re.MULTILINE) if margin else code
