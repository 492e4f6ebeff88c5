import SwiftUI

/// Nothing moves while something is timed.
struct BenchmarkScreen: View {
    let run: BenchmarkRun

    var body: some View {
        Text(run.state)
            .padding()
            .task { await run.start() }
    }
}
