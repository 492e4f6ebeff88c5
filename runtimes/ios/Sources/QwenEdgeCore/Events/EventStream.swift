import Foundation

/// What a runner was asked for, or found itself running with; nil is "not said".
public struct RunnerSettings: Equatable, Sendable {
    public var backend: String?
    public var threads: Int?
    public var affinity: [Int]?
    public var details: JSONObject

    public init(backend: String? = nil, threads: Int? = nil, affinity: [Int]? = nil, details: JSONObject = JSONObject()) {
        self.backend = backend
        self.threads = threads
        self.affinity = affinity
        self.details = details
    }

    fileprivate var json: JSON {
        [
            "backend": backend.map(JSON.string) ?? .null, "threads": threads.map(JSON.integer) ?? .null,
            "affinity": affinity.map { .array($0.map(JSON.integer)) } ?? .null, "details": .object(details),
        ]
    }
}

/// The first line of a stream.
public struct StreamStart: Equatable, Sendable {
    public let runner: String
    public let runtime: String
    public let requested: RunnerSettings
    public let effective: RunnerSettings
    public let atNanoseconds: Int

    public init(
        runner: String, runtime: String, requested: RunnerSettings, effective: RunnerSettings,
        atNanoseconds: Int = monotonicNanoseconds()
    ) {
        self.runner = runner
        self.runtime = runtime
        self.requested = requested
        self.effective = effective
        self.atNanoseconds = atNanoseconds
    }

    fileprivate var json: JSON {
        [
            "at_ns": .integer(atNanoseconds), "event": "stream", "version": 1, "runner": .string(runner),
            "runtime": .string(runtime), "series": "app", "clock": "monotonic", "requested": requested.json,
            "effective": effective.json,
        ]
    }
}

/// Makes the lines of a stream (`benchmarks/stream.py` reads them). The last line counts and hashes those before it: a
/// stream without it is no result.
public struct EventStream {
    private let writer = JSONWriter(betweenItems: ",", afterName: ":")
    private var hash = Hash()
    private var lines = 0

    public init() {}

    public mutating func line(_ start: StreamStart) -> Data { line(start.json) }

    public mutating func line(_ event: TimedEvent) -> Data { line(event.json) }

    /// The last line.
    public mutating func end() -> Data {
        line(["event": "end", "lines": .integer(lines), "sha256": .string(hash.hex)])
    }

    private mutating func line(_ content: JSON) -> Data {
        let line = Data((writer.write(content) + "\n").utf8)
        hash.update(line)
        lines += 1
        return line
    }
}
