import AppIntents
import Foundation

/// Runs the cases in Documents/cases.json on the artifact in Documents/artifact, from Shortcuts or by voice.
struct BenchmarkIntent: AppIntent {
    static let title: LocalizedStringResource = "Run the benchmark"
    static let description = IntentDescription("Measures the model in the app's folder and writes events.jsonl there.")
    static let openAppWhenRun = true

    @MainActor
    func perform() async throws -> some IntentResult & ReturnsValue<String> {
        let words = ["--artifact", "artifact", "--cases", "cases.json", "--out", "events.jsonl"]
        guard let run = BenchmarkRun(arguments: words, engines: Places.engines()) else {
            return .result(value: "there is nothing to measure")
        }
        await run.start()
        return .result(value: run.state)
    }
}
