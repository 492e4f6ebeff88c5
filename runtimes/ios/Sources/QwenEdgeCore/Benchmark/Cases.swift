import Foundation

/// One thing to measure: a load and the generations after it. `benchmarks/cases.py` defines the fields.
public struct BenchmarkCase: Equatable, Sendable {
    public let name: String
    public let kind: CaseKind
    public let prompt: [Int]
    public let text: String?
    public let newTokens: Int
    public let warmUps: Int
    public let repeats: Int
    public let durationMs: Int?
    public let idleMs: Int?
    public let sampleIntervalMs: Int?
    public let samples: [SampleKind]
}

/// The cases of one process.
public struct CaseFile: Equatable, Sendable {
    private static let maxBytes = 16 * 1024 * 1024

    public let threads: Int?
    public let cases: [BenchmarkCase]

    /// Read `cases.json`, as the device lab writes it.
    public init(_ place: URL) throws {
        let document: JSON
        do {
            document = try JSONReader.document(try readBytes(place, atMost: Self.maxBytes))
        } catch let error as JSONError {
            throw EdgeError(.cases, "\(place.lastPathComponent): not JSON: \(error); push it again")
        }
        var file = try Fields(document, of: place.lastPathComponent, kind: .cases)
        _ = try file.integer("version", 1...1)
        threads = try file.integerIfGiven("threads", 1...4096)
        _ = file.optional("affinity")  // iOS lets nobody choose cores
        cases = try file.objects("cases", 1...1000, BenchmarkCase.init)
        try file.done()
    }
}

extension BenchmarkCase {
    fileprivate init(_ fields: inout Fields) throws {
        name = try fields.text("case", .caseName)
        kind = try fields.choice("kind")
        prompt = try fields.integers("prompt", 0...Int(Int32.max), 1...1 << 20)
        text = try fields.optional("text").map { try fields.checked($0, "text", .anyText) }
        newTokens = try fields.integer("new_tokens", 1...1 << 20)
        warmUps = try fields.integerIfGiven("warm_ups", 0...1000) ?? 0
        repeats = try fields.integerIfGiven("repeats", 1...1 << 20) ?? 1
        durationMs = try fields.integerIfGiven("duration_ms", 1...86_400_000)
        idleMs = try fields.integerIfGiven("idle_ms", 1...3_600_000)
        sampleIntervalMs = try fields.integerIfGiven("sample_interval_ms", 10...60_000)
        samples = fields.optional("samples") == nil ? [] : try fields.choices("samples", 0...16)
        _ = fields.optional("drop_page_cache")  // an app cannot, and says nothing of what was cached
    }
}

extension Form {
    fileprivate static let anyText = Form(wanted: "4194304 characters at most") { $0.unicodeScalars.count <= 4_194_304 }

    fileprivate static let caseName = Form(wanted: "a name") { text in
        text.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]{0,79}/) != nil && !text.contains("..")
    }
}
