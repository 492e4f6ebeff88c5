import Foundation

/// Tokens that may be drawn, best first, with their scores after penalty and temperature.
public struct Candidates: Sendable {
    public private(set) var ids: [Int]
    public private(set) var scores: [Float]

    /// How likely each is against the best one, which has weight 1.
    public func weights() -> [Double] {
        scores.map { exp(Double($0) - Double(scores[0])) }
    }

    func first(_ count: Int) -> Candidates {
        Candidates(ids: Array(ids.prefix(count)), scores: Array(scores.prefix(count)))
    }
}

/// Draws tokens with one stream of random numbers.
///
/// Order and formulas are those of transformers (repetition penalty, temperature, top-k, top-p, min-p). The arithmetic
/// is that of `runtimes/sampling.py`, so the same seed draws the same tokens as in Python.
public struct Sampler: Sendable {
    private let sampling: Sampling
    private var random: SplitMix64

    public init(_ sampling: Sampling) {
        self.sampling = sampling
        random = SplitMix64(seed: sampling.seed.map(UInt64.init) ?? .random(in: 0...UInt64(Int.max)))
    }

    /// The next token; `history` is every token so far, the prompt included.
    public mutating func choose(_ logits: [Float], history: [Int]) throws -> Int {
        let scores = penalized(logits, history: history, penalty: sampling.repetitionPenalty)
        let best = indexOfLargest(scores)
        if scores[best].isNaN {
            throw EdgeError(.engine, "the model gave NaN logits after \(history.count) tokens; import the bundle again")
        }
        if sampling.temperature == 0 { return best }
        let candidates = candidates(scores, sampling)
        return candidates.ids[draw(candidates.weights())]
    }

    private mutating func draw(_ weights: [Double]) -> Int {
        let target = random.uniform() * weights.reduce(0, +)
        var sum = 0.0
        for (index, weight) in weights.enumerated() {
            sum += weight
            if sum > target { return index }
        }
        return weights.count - 1
    }
}

/// What may be drawn of these scores.
public func candidates(_ scores: [Float], _ sampling: Sampling) -> Candidates {
    let heat = Float(sampling.temperature)
    return minP(topP(topK(scores.map { $0 / heat }, sampling.topK), sampling.topP), sampling.minP)
}

/// Makes tokens of the history less likely: positive logits are divided, negative ones multiplied.
public func penalized(_ logits: [Float], history: [Int], penalty: Double) -> [Float] {
    if penalty == 1 || history.isEmpty { return logits }
    let factor = Float(penalty)
    var found = logits
    for token in Set(history) {
        found[token] = logits[token] < 0 ? logits[token] * factor : logits[token] / factor
    }
    return found
}

/// The lowest index among the largest values; NaN counts as the largest.
public func indexOfLargest(_ values: [Float]) -> Int {
    var best = 0
    for (index, value) in values.enumerated() {
        if value.isNaN { return index }
        if value > values[best] { best = index }
    }
    return best
}

/// The `count` best scores and those equal to the last of them, best first, the lower id first among equals.
private func topK(_ scores: [Float], _ count: Int) -> Candidates {
    let isAll = count == 0 || count >= scores.count
    let threshold = isAll ? -Float.infinity : largest(scores, count)
    let ids = scores.indices.filter { scores[$0] >= threshold }.sorted {
        scores[$0] == scores[$1] ? $0 < $1 : scores[$0] > scores[$1]
    }
    return Candidates(ids: ids, scores: ids.map { scores[$0] })
}

/// The `count`-th largest value, by the sorted list of the largest so far: the vocabulary is never sorted whole.
private func largest(_ values: [Float], _ count: Int) -> Float {
    var best = values.prefix(count).sorted(by: >)
    for value in values.dropFirst(count) where value > best[count - 1] {
        best.removeLast()
        best.insert(value, at: best.partitioningIndex { $0 < value })
    }
    return best[count - 1]
}

/// The shortest run of best tokens whose probability reaches `share`; at least one.
private func topP(_ candidates: Candidates, _ share: Double) -> Candidates {
    if share == 1 { return candidates }
    var worse = candidates.weights()  // the weight of each token and all worse ones, once added up
    for index in worse.indices.dropLast().reversed() { worse[index] += worse[index + 1] }
    let edge = (1 - share) * worse[0]
    return candidates.first(max(1, worse.count { $0 > edge }))
}

/// The tokens at least `share` times as likely as the best one.
private func minP(_ candidates: Candidates, _ share: Double) -> Candidates {
    share == 0 ? candidates : candidates.first(candidates.weights().count { $0 >= share })
}

extension Array {
    /// The first place from which on `isAfter` holds, where it holds for a tail of the list.
    fileprivate func partitioningIndex(where isAfter: (Element) -> Bool) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
