"""Checkpoints from the Hugging Face Hub, through huggingface_hub."""

from pathlib import Path

import httpx2
from huggingface_hub import constants, snapshot_download
from huggingface_hub import errors as hub

from export.hubs import (
    ALLOWED_FILES,
    AccessDeniedError,
    DownloadError,
    HubAccess,
    PartialDownloadError,
    Repository,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    disk_error,
    is_disk_error,
    no_network,
    one_line,
)

ID_FIELD = "hub_id"


def revision(pinned: str) -> str:
    """Return the commit to ask for: the pinned one."""
    return pinned


def cached(repository: Repository, access: HubAccess) -> Path | None:
    """Return the snapshot in the cache, complete or not, without asking the network."""
    try:
        return _snapshot(repository, access, local_files_only=True)
    except hub.LocalEntryNotFoundError:
        return None


def download(repository: Repository, access: HubAccess) -> Path:
    """Download what is missing of the pinned revision; an interrupted file goes on where it stopped."""
    try:
        return _snapshot(repository, access, local_files_only=False)
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
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
    endpoint = access.endpoint or constants.ENDPOINT
    if isinstance(error, hub.GatedRepoError):
        return AccessDeniedError(
            f"{where}: access is restricted; accept its terms on {endpoint} and run: hf auth login"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return RepositoryNotFoundError(
            f"{where}: no such repository on {endpoint}, or it is private; check the name, or run: hf auth login"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return RevisionNotFoundError(
            f"{where}: no revision {repository.revision!r} on {endpoint}; check the pinned revision in export/models"
        )
    if isinstance(error, hub.IncompleteSnapshotError):
        return PartialDownloadError(
            f"{where}: only a part is in the cache and {endpoint} cannot be reached; connect and run again to resume"
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return no_network(repository, endpoint, error.__cause__ or "offline mode")
    if is_disk_error(error) and isinstance(error, OSError):
        return disk_error(repository, error)
    return PartialDownloadError(
        f"{where}: the transfer from {endpoint} stopped ({one_line(error)}); run again to resume"
    )
