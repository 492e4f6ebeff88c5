import Foundation
import QwenEdgeCore

/// Copies what a person chose in the Files app.
enum Importer {
    /// One artifact, or all artifacts of a bundle with the oracle that belongs to them.
    static func copy(
        _ folder: URL, into store: BundleStore, onProgress: @escaping @Sendable (Double) -> Void
    ) async throws {
        guard folder.startAccessingSecurityScopedResource() else {
            throw EdgeError(.artifact, "iOS does not let the app read \(folder.lastPathComponent); choose it again")
        }
        defer { folder.stopAccessingSecurityScopedResource() }
        try store.importBundle(from: folder, onProgress: onProgress)
    }
}
