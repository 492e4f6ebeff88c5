"""Where checkpoints are downloaded from: one file a hub, named as `--source` names it.

Each hub module has `ID_FIELD` (the field of a catalog entry that names the repository), `revision(pinned) -> str`,
`cached(repository, access) -> Path | None` and `download(repository, access) -> Path`, and turns what its client raises
into the errors below. The clients do the work: resuming, parallel transfers, checksums, tokens, mirrors and proxies are
theirs.
"""

import errno
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError

# never pickle, never code
ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")


class DownloadError(ExportError):
    """A checkpoint could not be downloaded."""


class NoNetworkError(DownloadError):
    """The hub cannot be reached, and the checkpoint is not in the cache."""


class RepositoryNotFoundError(DownloadError):
    """The hub has no such repository, or it is private."""


class RevisionNotFoundError(DownloadError):
    """The repository has no such revision."""


class AccessDeniedError(DownloadError):
    """The hub asks for a token, or for its terms to be accepted."""


class PartialDownloadError(DownloadError):
    """A transfer stopped part of the way."""


class CacheDiskError(DownloadError):
    """The download cache cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One pinned checkpoint of a hub."""

    hub: str
    repository_id: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """Where to ask and where to keep files; None means what the hub's client is configured for."""

    endpoint: str | None = None
    cache_dir: Path | None = None


def disk_error(repository: Repository, error: OSError) -> DownloadError:
    """Say why a file of the download could not be written."""
    where = f"{repository.hub}: {repository.repository_id}: {error.filename or 'the download cache'}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheDiskError(f"{where}: disk full; free some space and run again, finished files are kept")
    return CacheDiskError(f"{where}: cannot be written ({error.strerror or error}); check its permissions")


def is_disk_error(error: BaseException) -> bool:
    """Tell an error of the local disk from one of the network, which is an OSError too."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
    return isinstance(error, OSError) and error.errno in numbers


def no_network(repository: Repository, endpoint: str, error: object) -> NoNetworkError:
    """Say that neither the hub nor the cache has the checkpoint."""
    return NoNetworkError(
        f"{repository.hub}: cannot reach {endpoint} for {repository.repository_id} ({error}), and the cache does not "
        "hold it; connect, or give a local directory with --checkpoint"
    )


def one_line(error: BaseException) -> str:
    """Return a client's message, which may run over several lines, on one."""
    return " ".join(str(error).split())
