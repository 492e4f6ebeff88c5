import Foundation

/// What an artifact must answer: logits of the same quantized weights in eager torch, recorded where it was exported.
///
/// The bundle's `oracle.json` (`export/oracle.py`) is small enough to ask at first launch. The runtime's file was checked
/// where it was made, but not the device's own compiler.
public struct Oracle: Equatable, Sendable {
    public static let fileName = "oracle.json"
    public static let maxBytes = 16 * 1024 * 1024
    private static let format = 1

    /// The best ids after one position with their logits, and the log of the sum over the vocabulary.
    public struct Expected: Equatable, Sendable {
        public let position: Int
        public let ids: [Int]
        public let logits: [Double]
        public let logSum: Double
    }

    public enum ToleranceKind: String, Sendable {
        case relativeMaxError = "relative_max_error"
        case meanDivergence = "mean_kld"
    }

    public let tokens: [Int]
    /// So many tokens go in as a prompt, the rest one by one.
    public let prefillTokens: Int
    public let expected: [Expected]
    public let toleranceKind: ToleranceKind
    public let tolerance: Double

    /// The oracle in an artifact's folder or beside it; nil where there is none, or where it speaks of others only.
    public static func find(for artifact: Artifact) throws -> Oracle? {
        for folder in [artifact.directory, artifact.directory.deletingLastPathComponent()] {
            guard let place = try file(in: folder) else { continue }
            if let found = try Oracle(try readBytes(place, atMost: maxBytes), for: artifact.manifest) { return found }
        }
        return nil
    }

    /// The oracle's file in a folder, nil where there is none. Ignored for its size, it would let a model answer as it likes.
    static func file(in folder: URL) throws -> URL? {
        let place = folder.appending(path: fileName)
        guard let length = lengthOfFile(place) else { return nil }
        guard length <= maxBytes else {
            throw EdgeError(.oracle, "\(fileName): \(length) bytes, more than the \(maxBytes) it may have; copy the bundle again")
        }
        return place
    }

    /// The oracle of one artifact in these bytes; nil where it speaks of others only.
    public init?(_ bytes: [UInt8], for manifest: Manifest) throws {
        let document: JSON
        do {
            document = try JSONReader.document(bytes)
        } catch {
            throw EdgeError(.oracle, "\(Self.fileName) is not JSON: \(error); copy the bundle again")
        }
        var file = try Fields(document, of: Self.fileName, kind: .oracle)
        guard try file.integer("format", 0...1_000_000) == Self.format else {
            throw file.refused("format", "another one than \(Self.format), which this app reads")
        }
        var entries = try file.fields("artifacts")
        for name in try file.entries("artifacts").map(\.name) {
            var fields = try entries.fields(name)
            guard try fields.text("artifact", .sha256) == manifest.sha256 else { continue }
            try self.init(&fields, manifest)
            return
        }
        return nil
    }

    private init(_ fields: inout Fields, _ manifest: Manifest) throws {
        let ids = 0...manifest.vocabSize - 1
        tokens = try fields.integers("tokens", ids, 1...manifest.contextLength)
        prefillTokens = try fields.integer("prefill_tokens", 1...tokens.count)
        let last = tokens.count - 1
        expected = try fields.objects("positions", 1...tokens.count) { entry in
            let found = Expected(
                position: try entry.integer("position", 0...last), ids: try entry.integers("ids", ids, 2...1024),
                logits: try entry.numbers("logits", 2...1024), logSum: try entry.number("log_sum"))
            guard found.ids.count == found.logits.count else { throw entry.refused("logits", "not one for each id") }
            return found
        }
        var bound = try fields.fields("tolerance")
        toleranceKind = try bound.choice("kind")
        tolerance = try bound.number("value")
        guard tolerance > 0, tolerance < 1 else { throw bound.refused("value", "is \(tolerance), expected 0 to 1") }
    }
}

/// How far an engine's answers are from the oracle's.
public struct OracleReport: Equatable, Sendable {
    public let relativeMaxError: Double
    public let meanDivergence: Double
    /// Positions where another token is best, though the expected margin is more than twice the largest error.
    public let wrongPositions: [Int]
    /// Why the answers are refused; nil where they are right.
    public let problem: String?
}

extension Oracle {
    /// A mean of so few positions scatters: by as much as `runtimes/reference.py` allows a sample.
    private static let scatter = 6.0

    /// Feed the tokens to an engine and compare; the engine is reset before and after.
    public func ask(_ engine: any Engine) throws -> OracleReport {
        try engine.reset()
        var answers: [Int: [Float]] = [:]
        let prompt = Array(tokens[..<prefillTokens])
        answers[prefillTokens - 1] = try Generator(engine).prefill(prompt)
        for place in prefillTokens..<max(prefillTokens, (expected.map(\.position).max() ?? 0) + 1) {
            answers[place] = try engine.forward([tokens[place]])
        }
        try engine.reset()
        return compare(answers)
    }

    /// Compare logits by position with what is expected there.
    public func compare(_ answers: [Int: [Float]]) -> OracleReport {
        let differences = expected.compactMap { entry in answers[entry.position].map { Difference(entry, $0) } }
        let finite = differences.filter(\.isFinite)
        let relative = finite.map(\.relativeError).max() ?? 0
        let divergence = finite.map(\.divergence).reduce(0, +) / Double(max(1, finite.count))
        let clear = 2 * (finite.map(\.maxError).max() ?? 0)
        let wrong = finite.filter { $0.margin > clear && !$0.isSameBest }.map(\.position)
        return OracleReport(
            relativeMaxError: relative, meanDivergence: divergence, wrongPositions: wrong,
            problem: problem(differences, relative, divergence, wrong))
    }

    private func problem(
        _ differences: [Difference], _ relative: Double, _ divergence: Double, _ wrong: [Int]
    ) -> String? {
        if differences.isEmpty { return "no position was asked" }
        if let odd = differences.first(where: { !$0.isFinite }) { return "position \(odd.position): no finite numbers" }
        switch toleranceKind {
        case .relativeMaxError where relative > tolerance:
            return "the largest relative error is \(relative), \(tolerance) is allowed"
        case .meanDivergence where divergence > tolerance * (1 + Self.scatter / Double(differences.count).squareRoot()):
            return "the mean divergence is \(divergence), about \(tolerance) is allowed"
        default: return wrong.first.map { "position \($0): another token is best, though its margin is clear" }
        }
    }
}

/// The difference at one position, as `runtimes/reference.py` defines it.
private struct Difference {
    let position: Int
    let isFinite: Bool
    let maxError: Double
    let relativeError: Double
    let divergence: Double
    let margin: Double
    let isSameBest: Bool

    init(_ expected: Oracle.Expected, _ logits: [Float]) {
        position = expected.position
        isFinite = logits.allSatisfy(\.isFinite)
        let ours = expected.ids.map { Double(logits[$0]) }
        maxError = zip(ours, expected.logits).map { abs($0 - $1) }.max() ?? 0
        relativeError = maxError / max(expected.logits.map(abs).max() ?? 0, 1e-30)
        let ordered = expected.logits.sorted(by: >)
        margin = ordered[0] - ordered[1]
        let best = expected.logits.indices.max { expected.logits[$0] < expected.logits[$1] }!
        isSameBest = isFinite && indexOfLargest(logits) == expected.ids[best]
        let logSum = isFinite ? logSumOfExponentials(logits) : 0
        divergence = Self.divergence(
            of: ours.map { $0 - logSum }, from: expected.logits.map { $0 - expected.logSum },
            rounding: 4 * Double(Float.ulpOfOne) * max(1, abs(expected.logSum)))
    }

    /// The Kullback-Leibler divergence of log probabilities; whatever mass they leave over is one more outcome.
    private static func divergence(of ours: [Double], from expected: [Double], rounding: Double) -> Double {
        var total = zip(expected, ours).reduce(0.0) { $0 + exp($1.0) * ($1.0 - $1.1) }
        let rest = 1 - expected.reduce(0) { $0 + exp($1) }
        let other = 1 - ours.reduce(0) { $0 + exp($1) }
        if rest > rounding { total += rest * log(rest / max(other, rounding)) }
        return max(0, total)
    }
}

/// The log of the sum of exponentials, in double precision.
private func logSumOfExponentials(_ logits: [Float]) -> Double {
    let peak = Double(logits.max() ?? 0)
    return peak + log(logits.reduce(0.0) { $0 + exp(Double($1) - peak) })
}
