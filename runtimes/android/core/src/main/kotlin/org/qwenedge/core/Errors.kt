package org.qwenedge.core

/** Whatever this library reports to a person: one sentence that says what, where, what was found and what to do. */
open class QwenEdgeException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** A directory that should hold an artifact cannot be used as one. */
open class ArtifactException(message: String, cause: Throwable? = null) : QwenEdgeException(message, cause)

/** `manifest.json` is missing a field, breaks the schema, or points outside its directory. */
open class ManifestException(message: String) : ArtifactException(message)

/** `manifest.json` was written by a newer version of this project. */
class ManifestVersionException(message: String) : ManifestException(message)

/** A file is missing, or has not the bytes or the SHA-256 that its manifest promises. */
class FileMismatchException(message: String, cause: Throwable? = null) : ArtifactException(message, cause)

/** There is no room on the device. */
class NoSpaceException(message: String) : ArtifactException(message)

/** The chat template cannot run, or refuses the conversation. */
class ChatTemplateException(message: String) : QwenEdgeException(message)

/** The tokenizer file cannot be read, uses what this reader does not know, or belongs to another model. */
class TokenizerException(message: String) : QwenEdgeException(message)

/** An image cannot be read, has a shape that the model cannot see, or does not fit its prompt. */
class ImageException(message: String) : QwenEdgeException(message)

/** A sampling setting is outside its range. */
class SamplingException(message: String) : QwenEdgeException(message)

/** The tokens do not fit into the context; no state was touched. */
class ContextLimitException(message: String) : QwenEdgeException(message)

/** The conversation has no turn to regenerate or edit. */
class ConversationException(message: String) : QwenEdgeException(message)

/** The engine refused the model file, is too old for it, or failed while running it. */
open class EngineException(message: String, cause: Throwable? = null) : QwenEdgeException(message, cause)

/** The device has not the memory that the model needs. */
class MemoryException(message: String, cause: Throwable? = null) : EngineException(message, cause)

/** The oracle of a bundle cannot be read, or this device answers otherwise. */
class OracleException(message: String) : QwenEdgeException(message)

/** A file of benchmark cases is none. */
class CasesException(message: String) : QwenEdgeException(message)
