/// The figures of the answer in progress, from its events as they come.
final class LiveFigures {
    private var submitNs = 0
    private var prefillNs: (start: Int, end: Int)?
    private var prefillTokens = 0
    private var tokensNs: (first: Int, last: Int)?
    private var tokens = 0

    func note(_ timed: TimedEvent) {
        let at = timed.atNanoseconds
        switch timed.event {
        case .submit:
            submitNs = at
            prefillNs = nil
            prefillTokens = 0
            tokensNs = nil
            tokens = 0
        case .prefillStart: prefillNs = (prefillNs?.start ?? at, at)
        case .prefillEnd(_, let count):
            prefillNs?.end = at
            prefillTokens += count
        case .token:
            tokensNs = (tokensNs?.first ?? at, at)
            tokens += 1
        default: break
        }
    }

    var timeToFirstTokenMs: Double? {
        tokensNs.map { Double($0.first - submitNs) / 1e6 }
    }

    var promptTokensPerSecond: Double? {
        prefillNs.flatMap { rate(prefillTokens, $0.end - $0.start) }
    }

    /// The first token left out.
    var tokensPerSecond: Double? {
        tokensNs.flatMap { rate(tokens - 1, $0.last - $0.first) }
    }

    private func rate(_ count: Int, _ nanoseconds: Int) -> Double? {
        count > 0 && nanoseconds > 0 ? Double(count) * 1e9 / Double(nanoseconds) : nil
    }
}
