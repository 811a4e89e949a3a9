"""Giving back the memory of tensors that are views of a mapped file, so that a big checkpoint is never resident whole.

A private mapping of a file is filled from the file again after ``madvise(MADV_DONTNEED)``; anonymous memory would be
zeroed by the same call. So the kernel is asked, each time, what lies at an address: ``/proc/self/maps`` says which
ranges are files, and ``/proc/self/pagemap`` which of their pages were written to and are now a copy in memory. A
register of our own could go stale when a mapping ends and its addresses are used again; the kernel's cannot.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

Range = tuple[int, int]  # addresses: the first byte, and the one after the last

_MAPS, _PAGEMAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_NOT_FILES = (b"/dev/", b"/memfd:", b"/SYSV", b"/anon_hugepage")
# Of a pagemap entry (Linux, admin-guide/mm/pagemap): present in memory, swapped out, page of a file or shared.
_PRESENT, _SWAPPED, _OF_FILE = np.uint64(1 << 63), np.uint64(1 << 62), np.uint64(1 << 61)


def release_pages(tensors: Iterable[Tensor]) -> None:
    """Give back the whole pages of those ``tensors`` that are unchanged views of a mapped file; no value changes.

    The next use reads them again, from the page cache or the disk. Nothing happens to any other tensor, to a page that
    was written to since it was mapped, and on systems other than Linux.
    """
    spans = _joined(_span(tensor) for tensor in tensors if _is_in_memory(tensor))
    if not spans or not _MAPS.exists():
        return
    files = _file_mappings()
    for start, end in spans:
        _release(_whole_pages(start, end), files)


def _is_in_memory(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() > 0 and tensor.is_contiguous()


def _span(tensor: Tensor) -> Range:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


def _joined(spans: Iterable[Range]) -> list[Range]:
    """Sorted, and those that touch made one: a page that two tensors of a block share can then go as well."""
    joined: list[Range] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _whole_pages(start: int, end: int) -> Range:
    """Aligned inwards: what shares a page with others is not ours to give back."""
    page = mmap.PAGESIZE
    return -(-start // page) * page, end // page * page


def _release(pages: Range, files: Sequence[Range]) -> None:
    start, end = pages
    # The last mapping that starts at or before the first page: the pages must lie inside it.
    index = bisect_right(files, (start, 1 << 64)) - 1
    if index < 0 or not files[index][0] <= start < end <= files[index][1]:
        return
    for first, after in _unchanged(start, end):
        # Refused, for instance for a locked page: the memory stays, and nothing is lost.
        _madvise()(ctypes.c_void_p(first), ctypes.c_size_t(after - first), mmap.MADV_DONTNEED)


def _file_mappings() -> list[Range]:
    """Private mappings of ordinary files, in order of address."""
    ranges = []
    for line in _MAPS.read_bytes().splitlines():
        addresses, mode, _, _, inode, *path = line.split(maxsplit=5)
        if mode.endswith(b"p") and inode != b"0" and path and not path[0].startswith(_NOT_FILES):
            first, _, after = addresses.partition(b"-")
            ranges.append((int(first, 16), int(after, 16)))
    return ranges


def _unchanged(start: int, end: int) -> list[Range]:
    """The runs of pages that are the file's own, not a private copy, which would fall back to what the file holds."""
    page, count = mmap.PAGESIZE, (end - start) // mmap.PAGESIZE
    try:
        with _PAGEMAP.open("rb", buffering=0) as stream:
            stream.seek(start // page * 8)
            entries = np.frombuffer(stream.read(8 * count), dtype=np.uint64)
    except OSError:
        return []  # unknown counts as changed
    copied = ((entries & (_PRESENT | _SWAPPED)) != 0) & ((entries & _OF_FILE) == 0)
    edges = np.flatnonzero(np.diff(copied, prepend=True, append=True))
    return [(start + page * int(first), start + page * int(after)) for first, after in edges.reshape(-1, 2)]


@cache
def _madvise() -> ctypes._NamedFuncPointer:
    return ctypes.CDLL(None, use_errno=True).madvise
