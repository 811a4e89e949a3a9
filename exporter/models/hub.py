"""Models on the Hugging Face hub: what a repository holds is asked once; without a network the cache has to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from vggt_edge.devices.errors import InputError
from vggt_edge.exporter.models.shards import INDEX_SUFFIX, SHARD, a_few

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
USUAL = ("model.safetensors", "model.pt")
# What trainers write beside the weights.
_NO_WEIGHTS = ("optimizer", "scheduler", "training_args", "rng_state", "scaler", "random_states")
_TIMEOUT_S = 10.0


def choose(names: Collection[str]) -> str | None:
    """The checkpoint among the names of files of one folder: the usual name, an index or shard, or the only file.

    safetensors before PyTorch's format. None where there is none, or more than one to choose from.
    """
    files = sorted(name for name in names if "/" not in name and not name.startswith(_NO_WEIGHTS))
    indices = [name for name in files if name.endswith(INDEX_SUFFIX)]
    shards = [name for name in files if SHARD.fullmatch(name)]
    for found in (*USUAL, *indices[:1], *shards[:1]):
        if found in files:
            return found
    safe = [name for name in files if name.endswith(".safetensors")]
    others = [name for name in files if name.endswith(SUFFIXES)]
    return next((group[0] for group in (safe, others) if len(group) == 1), None)


def from_hub(repository: str, revision: str | None = None) -> Path:
    """Where the checkpoint of ``repository`` lies in the local cache, downloaded if need be.

    revision: a branch, tag or commit; the default branch for None. ``InputError`` for a repository or revision that
    does not exist, one that asks for a login, one without a checkpoint, and without a network where the cache has none.
    """
    # Imported here: only a hub id needs it, and it is slow to import.
    from huggingface_hub import HfApi

    with _refusals(repository, revision):
        held = _listed(repository, revision)
        if held is None:
            return _cached(repository, revision)
        commit, names = held
        chosen = choose(names) or _no_choice(repository, names)
        # The shards first: the index is what the path of all of them is.
        parts = [name for name in names if SHARD.fullmatch(name)] if chosen.endswith(INDEX_SUFFIX) else []
        return [Path(HfApi().hf_hub_download(repository, name, revision=commit)) for name in (*parts, chosen)][-1]


def _listed(repository: str, revision: str | None) -> tuple[str, tuple[str, ...]] | None:
    """Commit and names of files, from one request without retries; None where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # of its client

    try:
        found = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_S)
    except HfHubHTTPError:  # an answer
        raise
    except (ConnectionError, HTTPError):
        return None
    return str(found.sha), tuple(file.rfilename for file in found.siblings or ())


def _cached(repository: str, revision: str | None) -> Path:
    """The checkpoint in the newest cached snapshot that fits."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        repositories = frozenset()
    revisions = [one for each in repositories if each.repo_id == repository for one in each.revisions]
    fitting = [one for one in revisions if revision is None or revision in (one.commit_hash, *one.refs)]
    for one in sorted(fitting, key=lambda one: ("main" in one.refs, one.last_modified), reverse=True):
        if (chosen := choose([file.file_name for file in one.files])) is not None:
            return one.snapshot_path / chosen
    at = f" at revision {revision}" if revision else ""
    raise InputError(
        f"model {repository}{at} is neither a folder here nor in the local cache, and the hub cannot be reached",
        expected="a network connection, or a cached download",
        remedy=f"download {USUAL[0]} elsewhere and give its path to --model",
    )


def _no_choice(repository: str, names: Collection[str]) -> str:
    found = [name for name in names if name.endswith(SUFFIXES)]
    raise InputError(
        f"{repository} holds {f'{len(found)} files that may be the checkpoint' if found else 'no checkpoint'}",
        where=repository,
        expected=f"{' or '.join(USUAL)}, or a single file that ends in {', '.join(SUFFIXES)}",
        remedy=f"download one of {a_few(found)} and give its path to --model" if found else "check the id",
    )


@contextmanager
def _refusals(repository: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub as ``InputError``."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            f"{repository} is gated: its authors want to be asked first",
            expected="a token of an account that was granted access",
            remedy=f"accept the terms at https://huggingface.co/{repository}, then log in with `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{repository} has no revision {revision}",
            expected="a branch, a tag or a commit",
            remedy="check --revision",
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the hub has no {repository} that you may read",
            expected="a public repository, or one that your token may read",
            remedy="check the id, or log in with `hf auth login`",
        ) from error
    # OSError: among them every answer with an HTTP error status, and a connection that broke off.
    except (HfHubHTTPError, OSError, HFValidationError) as error:
        raise InputError(
            f"the hub refused {repository}: {str(error).splitlines()[0]}",
            expected="a repository that can be downloaded",
            remedy="try again later, or download the checkpoint elsewhere and give its path to --model",
        ) from error
