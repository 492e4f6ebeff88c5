import Foundation

/// Whatever this package reports to a person: one sentence that says what, where, what was found and what to do.
public struct EdgeError: LocalizedError, Equatable, Sendable {
    public enum Kind: Sendable {
        /// A directory that should hold an artifact cannot be used as one.
        case artifact
        /// `manifest.json` is missing a field, breaks the schema, or points outside its directory.
        case manifest
        /// `manifest.json` was written by a newer version of this project.
        case newerManifest
        /// A file is missing, or has not the bytes or the SHA-256 that its manifest promises.
        case fileMismatch
        /// There is no room on the device.
        case noSpace
        /// The chat template cannot run, or refuses the conversation.
        case chatTemplate
        /// The tokenizer file cannot be read, or uses what this reader does not know.
        case tokenizer
        /// A sampling setting is outside its range.
        case sampling
        /// The tokens do not fit into the context; no state was touched.
        case contextLimit
        /// The conversation has no turn to regenerate or edit.
        case conversation
        /// An image is damaged, too large, or does not fit the prompt.
        case image
        /// The engine refused the model, is too old for it, or failed while running it.
        case engine
        /// The device has not the memory that the model needs.
        case memory
        /// The oracle of a bundle cannot be read, or the device's answers differ from it.
        case oracle
        /// A file of benchmark cases is none.
        case cases
    }

    public let kind: Kind
    public let message: String

    public init(_ kind: Kind, _ message: String) {
        self.kind = kind
        self.message = message
    }

    public var errorDescription: String? { message }
}
