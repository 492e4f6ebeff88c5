/// Ends a stream of text at the first of some strings, and never gives out a part of one.
public struct StopStrings {
    private let stops: [[UInt8]]
    private var held: [UInt8] = []

    public init(_ stops: [String]) {
        self.stops = stops.filter { !$0.isEmpty }.map { Array($0.utf8) }
    }

    /// The text that is certainly before any stop string, and whether one was reached.
    public mutating func push(_ text: String) -> (text: String, isReached: Bool) {
        held += text.utf8
        if let first = stops.compactMap(place).min() {
            defer { held = [] }
            return (String(decoding: held[..<first], as: UTF8.self), true)
        }
        let keep = stops.map(overlap).max() ?? 0
        defer { held.removeFirst(held.count - keep) }
        return (String(decoding: held.dropLast(keep), as: UTF8.self), false)
    }

    /// What was held back because it might have become a stop string.
    public mutating func flush() -> String {
        defer { held = [] }
        return String(decoding: held, as: UTF8.self)
    }

    private func place(of stop: [UInt8]) -> Int? {
        guard held.count >= stop.count else { return nil }
        return (0...held.count - stop.count).first { held[$0...].starts(with: stop) }
    }

    /// How much of the held text's end is the start of a stop string.
    private func overlap(with stop: [UInt8]) -> Int {
        let longest = min(stop.count - 1, held.count)
        return stride(from: longest, to: 0, by: -1).first { held.suffix($0).elementsEqual(stop.prefix($0)) } ?? 0
    }
}
