import Foundation

#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256 of bytes as they come.
public struct Hash {
    private var hash = SHA256()

    public init() {}

    public mutating func update(_ data: some DataProtocol) {
        hash.update(data: data)
    }

    /// The digest in lower-case hexadecimal digits.
    public var hex: String {
        hash.finalize().map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
    }
}

/// The SHA-256 of a text's UTF-8, in lower-case hexadecimal digits.
public func sha256(of text: String) -> String {
    var hash = Hash()
    hash.update(Array(text.utf8))
    return hash.hex
}
