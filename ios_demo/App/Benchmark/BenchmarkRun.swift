import Foundation
import Observation
import QwenEdgeCore
import UIKit

/// One run of the device lab's cases, asked for by the words that every runner gets: `--artifact DIR --cases FILE --out FILE`,
/// all below Documents (`benchmarks/ios` launches the app so).
@MainActor
@Observable
final class BenchmarkRun {
    private(set) var state = "measuring; leave the phone alone"

    private let artifact: URL
    private let cases: URL
    private let out: URL
    private let engines: Engines

    /// nil where the words are no benchmark's.
    init?(arguments: [String], engines: Engines) {
        func place(_ name: String) -> URL? {
            guard let at = arguments.firstIndex(of: name), at + 1 < arguments.count else { return nil }
            let place = Places.documents.appending(path: arguments[at + 1]).standardizedFileURL
            return place.path.hasPrefix(Places.documents.standardizedFileURL.path + "/") ? place : nil
        }
        guard let artifact = place("--artifact"), let cases = place("--cases"), let out = place("--out") else { return nil }
        (self.artifact, self.cases, self.out, self.engines) = (artifact, cases, out, engines)
    }

    /// Measure on a thread of its own; the screen stays on meanwhile.
    func start() async {
        UIApplication.shared.isIdleTimerDisabled = true
        defer { UIApplication.shared.isIdleTimerDisabled = false }
        let (artifact, cases, out, engines) = (artifact, cases, out, engines)
        let problem = await withCheckedContinuation { done in
            Thread.detachNewThread { done.resume(returning: Self.problem(artifact, cases, out, engines)) }
        }
        state = problem ?? "done; the stream is in \(out.lastPathComponent)"
    }

    private nonisolated static func problem(_ artifact: URL, _ cases: URL, _ out: URL, _ engines: Engines) -> String? {
        do {
            try Data().write(to: out)
            let file = try FileHandle(forWritingTo: out)
            defer { try? file.close() }
            let opened = try Artifact(at: artifact)
            try opened.checkHashes()
            try BenchmarkRunner(opened, engines, DeviceCounters()).run(try CaseFile(cases), to: file)
            return nil
        } catch {
            return error.localizedDescription
        }
    }
}
