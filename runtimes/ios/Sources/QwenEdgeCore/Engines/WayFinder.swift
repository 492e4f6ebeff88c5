import Foundation

/// Finds the way to run an artifact that gives the right answers on this device, once.
///
/// A file that was checked where it was made may still fail here: Apple's compiler and the Neural Engine have the last word.
/// So each way is opened and asked the oracle, in order of preference, and the first that answers right is remembered. A way
/// that kills the process is known by the note that it left, and not tried again.
public struct WayFinder: Sendable {
    /// What is known of an artifact: the way in use, ways that failed and why, and the way being tried.
    struct Note: Equatable {
        var chosen: String?
        var failed: [String: String] = [:]
        var trying: String?
    }

    private let folder: URL
    private let versions: String

    /// `system` is the version of the operating system, `app` that of the app: after an update of either every way has another
    /// chance, for another compiler may be right and another app may judge otherwise.
    public init(folder: URL, system: String, app: String) {
        self.folder = folder
        versions = "\(system)-\(app)".replacingOccurrences(of: "/", with: "_")
    }

    /// The engine of the first way that answers right; `open` makes one. Without an oracle the first way that opens is
    /// taken, unremembered.
    public func open(
        _ artifact: Artifact, ways: [String], oracle: Oracle?, open: (String) throws -> any Engine
    ) throws -> any Engine {
        guard let oracle else { return try open(ways[0]) }
        let place = folder.appending(path: "\(artifact.manifest.sha256)-\(versions).json")
        var note = read(place)
        if let died = note.trying { note.failed[died] = "it ended the app" }
        note.trying = nil
        if let chosen = note.chosen, ways.contains(chosen) { return try open(chosen) }
        for way in ways where note.failed[way] == nil {
            note.trying = way
            try write(note, to: place)
            let result = Result { try self.try(way, oracle, open) }
            note.trying = nil
            switch result {
            case .success(let engine):
                note.chosen = way
                try write(note, to: place)
                return engine
            case .failure(let error): note.failed[way] = error.localizedDescription
            }
            try write(note, to: place)
        }
        let reasons = ways.map { "\($0): \(note.failed[$0] ?? "not tried")" }.joined(separator: "; ")
        throw EdgeError(.oracle, "\(artifact.name) gives wrong answers on this device (\(reasons)); use another model")
    }

    private func `try`(_ way: String, _ oracle: Oracle, _ open: (String) throws -> any Engine) throws -> any Engine {
        let engine = try open(way)
        let report = try oracle.ask(engine)
        if let problem = report.problem { throw EdgeError(.oracle, problem) }
        return engine
    }

    private func read(_ place: URL) -> Note {
        guard let data = try? Data(contentsOf: place), let kept = try? JSONReader.document(Array(data)).object else {
            return Note()
        }
        var note = Note(chosen: kept["chosen"]?.string, trying: kept["trying"]?.string)
        for field in kept["failed"]?.object?.fields ?? [] { note.failed[field.name] = field.value.string }
        return note
    }

    private func write(_ note: Note, to place: URL) throws {
        var failed = JSONObject()
        for (way, reason) in note.failed.sorted(by: { $0.key < $1.key }) { failed[way] = .string(reason) }
        let content: JSON = [
            "chosen": note.chosen.map(JSON.string) ?? .null, "failed": .object(failed),
            "trying": note.trying.map(JSON.string) ?? .null,
        ]
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try Data(JSONWriter().write(content).utf8).write(to: place, options: .atomic)
    }
}
