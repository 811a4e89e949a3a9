"""Giving mapped memory back: what is resident shrinks, and no value ever changes, whatever tensor is handed in."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggt_edge.exporter.models.mapping import release_pages

pytestmark = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="asks Linux what is mapped where")
COUNT, SIZE = 8, 2_000_001  # 8 MB each, and no whole number of pages
HUGE_PAGE = 2 << 20
PAGE = mmap.PAGESIZE // 4  # numbers in a page


def resident_file_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"t{index}": torch.randn(SIZE, generator=generator) for index in range(COUNT)}


@pytest.fixture(params=[".safetensors", ".pt"])
def mapped(request: pytest.FixtureRequest, values: dict[str, Tensor], tmp_path: Path) -> dict[str, Tensor]:
    """The same values as views of a file, all read once."""
    path = tmp_path / f"weights{request.param}"
    if request.param == ".pt":
        torch.save(values, path)
        loaded = torch.load(path, mmap=True, weights_only=True)
    else:
        save_file(values, path)
        with safe_open(path, framework="pt") as archive:
            loaded = {name: archive.get_tensor(name) for name in values}
    assert all(torch.equal(loaded[name], values[name]) for name in values)
    return {name: loaded[name] for name in values}


def test_pages_are_given_back_and_values_stay(mapped: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    before = resident_file_bytes()
    release_pages(mapped.values())
    assert before - resident_file_bytes() > 0.9 * 4 * SIZE * COUNT
    assert all(torch.equal(mapped[name], values[name]) for name in values)


def test_only_the_tensors_given_go(mapped: dict[str, Tensor]) -> None:
    before = resident_file_bytes()
    release_pages([mapped["t1"], mapped["t4"]])
    released = before - resident_file_bytes()
    # At each end, a huge page that reaches into a neighbour may go as a whole.
    assert 0.9 * 2 * 4 * SIZE < released < 2 * 4 * SIZE + 4 * HUGE_PAGE


def test_a_view_gives_back_its_own_part(mapped: dict[str, Tensor]) -> None:
    before = resident_file_bytes()
    release_pages([mapped["t2"][: SIZE // 2]])
    released = before - resident_file_bytes()
    assert 0.4 * 4 * SIZE < released < 0.5 * 4 * SIZE + 2 * HUGE_PAGE


def test_a_page_written_to_is_kept_and_those_around_it_go(mapped: dict[str, Tensor]) -> None:
    """The mapping is private: the file never saw the change, so the page would fall back to its old value."""
    middle = mapped["t3"]
    middle[SIZE // 2] = 7.0
    middle[5 * PAGE] = 8.0
    before = resident_file_bytes()
    release_pages(mapped.values())
    assert before - resident_file_bytes() > 0.9 * 4 * SIZE * COUNT
    assert (middle[SIZE // 2].item(), middle[5 * PAGE].item()) == (7.0, 8.0)


def test_tensors_in_memory_are_never_touched(mapped: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    kept = {name: tensor.clone() for name, tensor in values.items()}
    release_pages([*values.values(), *(tensor + 0 for tensor in mapped.values()), torch.ones(PAGE * 64)])
    assert all(torch.equal(values[name], kept[name]) for name in kept)


def test_memory_where_a_file_was_mapped_before_is_not_touched(tmp_path: Path) -> None:
    """Addresses are used again: nothing may be remembered about them."""
    path = tmp_path / "once.safetensors"
    for round_ in range(20):
        save_file({"a": torch.full((SIZE,), float(round_))}, path)
        with safe_open(path, framework="pt") as archive:
            mapped = archive.get_tensor("a")
        release_pages([mapped])
        assert mapped[-1].item() == round_
        del mapped
        fresh = torch.full((SIZE + PAGE,), 3.0)  # lands where the file was, as often as not
        release_pages([fresh])
        assert bool((fresh == 3.0).all())


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED])
@pytest.mark.parametrize("device", ["", "/dev/zero"])
def test_mappings_without_a_file_keep_their_content(device: str, flags: int) -> None:
    with ExitStack() as stack:
        if device:
            number = stack.enter_context(Path(device).open("r+b", buffering=0)).fileno()
        else:
            number, flags = -1, flags | mmap.MAP_ANONYMOUS
        memory = stack.enter_context(mmap.mmap(number, 16 * mmap.PAGESIZE, flags=flags))
        memory.write(b"\x07" * len(memory))
        view = torch.frombuffer(memory, dtype=torch.uint8)
        release_pages([view])
        assert bool((view == 7).all())
        del view


def test_what_has_no_pages_is_ignored(mapped: dict[str, Tensor]) -> None:
    release_pages([])
    release_pages([torch.empty(0), torch.empty(3, device="meta"), mapped["t0"][:3], mapped["t0"][::2]])


def test_a_file_that_was_replaced_keeps_its_old_values(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.full((SIZE,), 1.0)}, path)
    with safe_open(path, framework="pt") as archive:
        mapped = archive.get_tensor("a")
    other = tmp_path / "b.safetensors"
    save_file({"a": torch.full((SIZE,), 2.0)}, other)
    other.replace(path)
    release_pages([mapped])
    assert bool((mapped == 1.0).all())
