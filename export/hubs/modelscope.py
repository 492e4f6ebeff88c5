"""Checkpoints from ModelScope, through modelscope's own client.

ModelScope numbers its commits differently from the Hugging Face Hub, so the pinned Hub revision names nothing there: a
branch is asked for, and the content hash in the manifest says which bytes came.
"""

from pathlib import Path

import requests
from modelscope.hub.snapshot_download import snapshot_download
from modelscope_hub import errors as hub
from modelscope_hub.config import HubConfig

from export.hubs import (
    ALLOWED_FILES,
    AccessDeniedError,
    DownloadError,
    HubAccess,
    PartialDownloadError,
    Repository,
    RepositoryNotFoundError,
    disk_error,
    is_disk_error,
    no_network,
    one_line,
)

ID_FIELD = "modelscope_id"
BRANCH = "master"


def revision(pinned: str) -> str:  # noqa: ARG001 - the Hub's commit means nothing here
    """Return the branch to ask for."""
    return BRANCH


def cached(repository: Repository, access: HubAccess) -> Path | None:
    """Return the snapshot in the cache, complete or not, without asking the network."""
    try:
        return _snapshot(repository, access, local_files_only=True)
    except (hub.CacheNotFound, ValueError):
        return None


def download(repository: Repository, access: HubAccess) -> Path:
    """Download what is missing of the branch; an interrupted file goes on where it stopped."""
    try:
        return _snapshot(repository, access, local_files_only=False)
    except (hub.HubError, requests.RequestException, OSError) as error:
        raise _named(repository, access, error) from error


def _snapshot(repository: Repository, access: HubAccess, *, local_files_only: bool) -> Path:
    path = snapshot_download(
        repository.repository_id,
        revision=repository.revision,
        allow_patterns=list(ALLOWED_FILES),
        local_files_only=local_files_only,
        cache_dir=access.cache_dir,
        endpoint=access.endpoint,
    )
    return Path(path)


def _named(repository: Repository, access: HubAccess, error: Exception) -> DownloadError:
    where = f"{repository.hub}: {repository.repository_id}"
    endpoint = access.endpoint or str(HubConfig().endpoint)
    cause = error.__cause__
    if isinstance(cause, hub.NotExistError):
        return RepositoryNotFoundError(
            f"{where}: no such repository or branch {repository.revision!r} on {endpoint}, or it is private; check the "
            "name, or run: modelscope login"
        )
    if isinstance(cause, hub.AuthenticationError | hub.PermissionDeniedError):
        return AccessDeniedError(f"{where}: access is restricted on {endpoint}; run: modelscope login")
    if isinstance(error, hub.NetworkError | requests.ConnectionError):
        return no_network(repository, endpoint, type(error).__name__)
    failed = [error, *getattr(error, "failed_files", {}).values()]
    on_disk = [one for one in failed if is_disk_error(one)]
    if on_disk and isinstance(on_disk[0], OSError):
        return disk_error(repository, on_disk[0])
    return PartialDownloadError(
        f"{where}: the transfer from {endpoint} stopped ({one_line(error)}); run again to resume"
    )
