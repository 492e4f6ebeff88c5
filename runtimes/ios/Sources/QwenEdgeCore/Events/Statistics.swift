/// What a person wants to know of one case; nil where it was not measured. The definitions are those of
/// `benchmarks/metrics.py`, which computes everything else from the stream.
public struct Statistics: Equatable, Sendable {
    public let loadMs: Double?
    public let timeToFirstTokenMs: Double?
    public let prefillTokensPerSecond: Double?
    /// Mean time between tokens of a generation, the first left out.
    public let timePerTokenMs: Double?
    /// Time between tokens that half, 90 % and 99 % of all steps don't exceed.
    public let stepP50Ms: Double?
    public let stepP90Ms: Double?
    public let stepP99Ms: Double?

    public var decodeTokensPerSecond: Double? { timePerTokenMs.map { 1000 / $0 } }

    /// The figures of the events of one case, or of a chat. A case that met an error has none.
    public init(_ events: [TimedEvent]) {
        let failed = events.contains { if case .error = $0.event { true } else { false } }
        let timeline = Timeline(failed ? [] : events)
        let generations = timeline.generations
        loadMs = median(timeline.loadsNs.map { $0 / 1e6 })
        timeToFirstTokenMs = median(
            generations.compactMap { one in one.tokensNs.first.map { ($0 - one.submitNs) / 1e6 } })
        prefillTokensPerSecond = median(generations.compactMap(\.prefillTokensPerSecond))
        timePerTokenMs = median(generations.compactMap(\.meanStepNs).map { $0 / 1e6 })
        let steps = generations.flatMap { one in zip(one.tokensNs, one.tokensNs.dropFirst()).map { $1 - $0 } }
        stepP50Ms = percentile(steps, 50, atLeast: 1).map { $0 / 1e6 }
        stepP90Ms = percentile(steps, 90, atLeast: 10).map { $0 / 1e6 }
        stepP99Ms = percentile(steps, 99, atLeast: 100).map { $0 / 1e6 }
    }
}

/// Loads and generations, with times in nanoseconds.
private struct Timeline {
    struct Generation {
        let submitNs: Double
        var prefillNs: (start: Double, end: Double)?
        var prefillTokens = 0
        var tokensNs: [Double] = []

        var prefillTokensPerSecond: Double? {
            guard let prefillNs, prefillTokens > 0, prefillNs.end > prefillNs.start else { return nil }
            return Double(prefillTokens) * 1e9 / (prefillNs.end - prefillNs.start)
        }

        var meanStepNs: Double? {
            guard tokensNs.count > 1, let first = tokensNs.first, let last = tokensNs.last, last > first else { return nil }
            return (last - first) / Double(tokensNs.count - 1)
        }
    }

    private(set) var loadsNs: [Double] = []
    private(set) var generations: [Generation] = []

    init(_ events: [TimedEvent]) {
        var loadStart = 0.0
        for timed in events {
            let at = Double(timed.atNanoseconds)
            let last = generations.indices.last
            switch (timed.event, last) {
            case (.loadStart, _): loadStart = at
            case (.loadEnd, _): loadsNs.append(at - loadStart)
            case (.submit, _): generations.append(Generation(submitNs: at))
            case (.prefillStart(_, let tokens), let last?):
                generations[last].prefillNs = (generations[last].prefillNs?.start ?? at, at)
                generations[last].prefillTokens += tokens
            case (.prefillEnd, let last?): generations[last].prefillNs?.end = at
            case (.token, let last?): generations[last].tokensNs.append(at)
            default: break
            }
        }
    }
}

private func median(_ values: [Double]) -> Double? {
    percentile(values, 50, atLeast: 1)
}

/// The value below which `percent` of the values lie, by linear interpolation; nil where there are too few.
private func percentile(_ values: [Double], _ percent: Double, atLeast least: Int) -> Double? {
    guard values.count >= least else { return nil }
    let ordered = values.sorted()
    let place = Double(ordered.count - 1) * percent / 100
    let low = Int(place), high = min(Int(place) + 1, ordered.count - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - Double(low))
}
