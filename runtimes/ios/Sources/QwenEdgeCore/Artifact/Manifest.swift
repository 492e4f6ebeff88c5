/// Everything an app needs to know about an artifact; `readManifest` makes one of untrusted bytes.
public struct Manifest: Equatable, Sendable {
    public static let fileName = "manifest.json"
    public static let schemaVersion = 1
    public static let maxBytes = 4 * 1024 * 1024

    public let model: String
    public let source: Source
    public let weights: Weights
    public let scheme: String
    public let method: String
    public let backend: String
    public let runtime: RuntimeVersion
    /// Tokens a sequence may hold.
    public let contextLength: Int
    /// Tokens that one call of the model takes at most.
    public let prefillChunk: Int
    public let vocabSize: Int
    public let eosTokenIds: [Int]
    public let padTokenId: Int?
    public let modelFile: String
    public let tokenizerFile: String
    public let chatTemplateFile: String?
    public let referenceFile: String?
    public let modalities: [Modality]
    public let threads: Int
    public let state: [StateTensor]
    public let files: [FileEntry]
    public let bytesReadPerDecodedToken: Int
    /// nil: the model reads text alone.
    public let vision: VisionPart?
    /// Names the artifact: the SHA-256 of its manifest without what was measured, in hex.
    public let sha256: String

    public var totalBytes: Int { files.reduce(0) { $0 + $1.bytes } }

    public enum Weights: String, Sendable { case trained, random }
    public enum Modality: String, Sendable { case text, image, video }
}

/// Where the checkpoint came from.
public struct Source: Equatable, Sendable {
    public enum Kind: String, Sendable { case huggingface, modelscope, local, random }

    public let kind: Kind
    public let id: String
    public let revision: String?
    public let sha256: String?
}

/// The engine that runs the artifact, and the oldest version of it that can.
public struct RuntimeVersion: Equatable, Sendable {
    public let name: String
    public let version: String
    public let oldestVersion: String
}

/// One tensor that lives from call to call; `tokenAxis` is the axis with one entry a token.
public struct StateTensor: Equatable, Sendable {
    public enum Kind: String, Sendable { case conv, recurrent, key, value }

    public enum ElementType: String, Sendable {
        case float32, float16, int8, uint8

        public var bytes: Int {
            switch self {
            case .float32: 4
            case .float16: 2
            case .int8, .uint8: 1
            }
        }
    }

    public let name: String
    public let kind: Kind
    public let layer: Int
    public let shape: [Int]
    public let dtype: ElementType
    public let bytes: Int
    public let inputName: String?
    public let outputName: String?
    public let tokenAxis: Int?
}

/// One file of the artifact, its path relative to the manifest.
public struct FileEntry: Equatable, Sendable {
    public let path: String
    public let bytes: Int
    public let sha256: String
}
