"""Named errors: each says what went wrong, where, what was found and what to do next.

ProjectError
├── ArtifactError
│   ├── NotAnArtifactError
│   ├── ManifestError
│   │   └── ManifestVersionError
│   ├── FileMismatchError
│   └── ReferenceFileError
├── RuntimeUnavailableError
├── RuntimeFailedError
├── ContextLimitError
├── TokenRangeError
├── SnapshotError
├── SamplingError
├── ChatTemplateError
├── ConversationError
├── ImageError
└── TokenizerError
"""


class ProjectError(Exception):
    """Anything this project reports to its user as one line and exit status 1."""


class ArtifactError(ProjectError):
    """A directory that should be an artifact cannot be used as one."""


class NotAnArtifactError(ArtifactError):
    """The path holds no manifest, or several artifacts where one was asked for."""


class ManifestError(ArtifactError):
    """`manifest.json` is missing a field, breaks the schema, or points outside its directory."""


class ManifestVersionError(ManifestError):
    """`manifest.json` was written by a newer version of this project."""


class FileMismatchError(ArtifactError):
    """A file of the artifact is missing or differs from the bytes or the sha256 its manifest promises."""


class ReferenceFileError(ArtifactError):
    """`reference.safetensors` is missing, malformed, or does not fit the manifest."""


class RuntimeUnavailableError(ProjectError):
    """No runtime of that name exists here, or its Python package is not installed or too old."""


class RuntimeFailedError(ProjectError):
    """The runtime refused the model file or failed while running it."""


class ContextLimitError(ProjectError):
    """The tokens asked for do not fit into the context; no state was touched."""


class TokenRangeError(ProjectError):
    """A token id lies outside the vocabulary, or no token was given; no state was touched."""


class SnapshotError(ProjectError):
    """A snapshot belongs to another runner."""


class SamplingError(ProjectError):
    """A sampling setting is outside its range."""


class ChatTemplateError(ProjectError):
    """The chat template does not compile, raised an error of its own, or was given a message it refuses."""


class ConversationError(ProjectError):
    """The conversation has no turn to regenerate or edit."""


class TokenizerError(ProjectError):
    """The tokenizer file cannot be read, or does not fit the model."""


class ImageError(ProjectError):
    """A file holds no image that can be read safely, or one that the model cannot take."""
