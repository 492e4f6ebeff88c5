import Foundation

/// Remembers across the death of the process what the engine was doing.
///
/// A crash inside a native library, or a kill for memory, leaves no error. So a note is written before and removed after;
/// a note that is still there at the next start tells what went wrong, and that this model should not load by itself.
public struct CrashGuard: Sendable {
    private let note: URL

    public init(note: URL) {
        self.note = note
    }

    /// What was going on when the process died, or nil. Asked once, at the start.
    public func lastWords() -> String? {
        guard let found = try? String(contentsOf: note, encoding: .utf8), !found.isEmpty else { return nil }
        try? FileManager.default.removeItem(at: note)
        return found
    }

    /// Do something that may kill the process.
    public func watch<Result>(_ what: String, _ action: () throws -> Result) rethrows -> Result {
        try? Data(what.utf8).write(to: note)
        defer { try? FileManager.default.removeItem(at: note) }
        return try action()
    }
}
