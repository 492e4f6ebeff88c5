import Foundation

/// What the counters of a device say: for each source its values, whose names end with their units.
public protocol Counters: Sendable {
    func read(_ kind: SampleKind) -> [(source: String, values: JSONObject)]
}

/// Runs the device lab's cases and writes its event stream, as `benchmarks/host_runner.py` does on a computer.
///
/// Nothing is written while anything is timed: events wait in memory until a generation has ended. An app cannot drop files
/// from the page cache, so a cold case says nothing of what was cached, and the lab gives it no cold load time.
public final class BenchmarkRunner {
    private static let name = "qwen-edge ios 1"
    private static let tokenizerName = "qwen-edge swift 1"

    private let artifact: Artifact
    private let engines: Engines
    private let counters: any Counters
    private let waiting = WaitingEvents()
    private var stream = EventStream()

    public init(_ artifact: Artifact, _ engines: Engines, _ counters: any Counters) {
        self.artifact = artifact
        self.engines = engines
        self.counters = counters
    }

    /// Run all cases and write the stream; an error becomes a line, after which the stream is sealed.
    public func run(_ file: CaseFile, to out: FileHandle) throws {
        try out.write(contentsOf: stream.line(try start(file)))
        do {
            let tokenizer = try readTokenizer(try artifact.place(of: artifact.manifest.tokenizerFile))
            for one in file.cases { try run(one, file.threads, tokenizer, out) }
        } catch {
            waiting.append(TimedEvent(.error(what: String("\(type(of: error)): \(error.localizedDescription)".prefix(1000)))))
        }
        try flush(to: out)
        try out.write(contentsOf: stream.end())
    }

    private func start(_ file: CaseFile) throws -> StreamStart {
        let manifest = artifact.manifest
        let version = try engines.factory(for: artifact).version
        return StreamStart(
            runner: Self.name, runtime: "\(manifest.runtime.name) \(version)",
            requested: RunnerSettings(backend: manifest.backend, threads: file.threads),
            effective: RunnerSettings(
                backend: manifest.backend, details: ["tokenizer": .string(Self.tokenizerName)]))
    }

    private func run(
        _ one: BenchmarkCase, _ threads: Int?, _ tokenizer: Tokenizer, _ out: FileHandle
    ) throws {
        emit(.caseStart(name: one.name, kind: one.kind))
        waiting.sample([.memory], counters)
        let samples = one.sampleIntervalMs.map { PeriodicSamples(everyMs: $0, one.samples, counters, into: waiting) }
        do {
            defer { samples?.end() }
            try load(one, threads, tokenizer, out)
        }
        waiting.sample([.memory, .thermal], counters)
        emit(.caseEnd(name: one.name))
        try flush(to: out)
    }

    private func load(
        _ one: BenchmarkCase, _ threads: Int?, _ tokenizer: Tokenizer, _ out: FileHandle
    ) throws {
        idle(one)
        emit(.loadStart)
        let engine = try engines.open(artifact, threads: threads)
        emit(.loadEnd)
        emit(.marker(name: "engine: \(engine.name)"))
        try flush(to: out)
        try warmUp(one, engine)
        try measure(one, engine, tokenizer, out)
    }

    private func idle(_ one: BenchmarkCase) {
        guard let idleMs = one.idleMs else { return }
        emit(.marker(name: "idle_start"))
        Thread.sleep(forTimeInterval: Double(idleMs) / 1000)
        emit(.marker(name: "idle_end"))
    }

    private func warmUp(_ one: BenchmarkCase, _ engine: any Engine) throws {
        guard one.warmUps > 0 else { return }
        emit(.marker(name: "warm_up_start"))
        for _ in 0..<one.warmUps {
            try engine.reset()
            try generate(engine, one.prompt, one.newTokens) { _ in }
        }
        emit(.marker(name: "warm_up_end"))
    }

    private func measure(
        _ one: BenchmarkCase, _ engine: any Engine, _ tokenizer: Tokenizer, _ out: FileHandle
    ) throws {
        let endNs = one.durationMs.map { monotonicNanoseconds() + $0 * 1_000_000 }
        var done = 0
        while endNs.map({ done == 0 || monotonicNanoseconds() < $0 }) ?? (done < one.repeats) {
            try engine.reset()
            let submittedNs = monotonicNanoseconds()
            let prompt = one.text.map(tokenizer.encode) ?? one.prompt
            waiting.append(TimedEvent(.submit(promptTokens: prompt.count), atNanoseconds: submittedNs))
            try generate(engine, prompt, one.newTokens, sink: waiting.append)
            try flush(to: out)
            done += 1
        }
    }

    /// One generation: greedy, of a fixed number of tokens; an end token ends nothing.
    private func generate(
        _ engine: any Engine, _ prompt: [Int], _ newTokens: Int, sink: @escaping EventSink
    ) throws {
        var logits = try Generator(engine, sink: sink).prefill(prompt)
        for index in 0..<newTokens {
            let token = indexOfLargest(logits)
            sink(TimedEvent(.token(index: index, token: token)))
            if index + 1 < newTokens { logits = try engine.forward([token]) }
        }
        sink(TimedEvent(.stop(reason: .maxTokens, tokens: newTokens)))
    }

    private func emit(_ event: Event) {
        waiting.append(TimedEvent(event))
    }

    private func flush(to out: FileHandle) throws {
        for event in waiting.take() { try out.write(contentsOf: stream.line(event)) }
    }
}
