/// The merges of byte-pair encoding: which two neighbours become one token, and which pair goes first.
struct BytePairs: Sendable {
    private struct Neighbours: Hashable {
        let left: Int32
        let right: Int32
    }

    private struct Merge {
        let rank: Int
        let result: Int
    }

    private var merges: [Neighbours: Merge] = [:]

    mutating func add(_ left: Int, _ right: Int, result: Int) {
        merges[Neighbours(left: Int32(left), right: Int32(right))] = Merge(rank: merges.count, result: result)
    }

    /// Merges neighbours, always the pair of the lowest rank, the leftmost of equals, until none is left.
    func merged(_ symbols: [Int]) -> [Int] {
        var chain = Chain(symbols)
        var queue = Heap<Candidate>()
        func offer(_ left: Int) {
            guard let right = chain.next(after: left),
                let merge = merge(chain.tokens[left], chain.tokens[right])
            else { return }
            queue.push(
                Candidate(rank: merge.rank, at: left, left: chain.tokens[left], right: chain.tokens[right], result: merge.result))
        }
        for at in symbols.indices { offer(at) }
        while let pair = queue.pop() {
            guard chain.tokens[pair.at] == pair.left, let right = chain.next(after: pair.at),
                chain.tokens[right] == pair.right
            else { continue }  // one of the two has been merged meanwhile
            chain.merge(pair.at, into: pair.result)
            if let previous = chain.previous(before: pair.at) { offer(previous) }
            offer(pair.at)
        }
        return chain.tokens.filter { $0 != Chain.gone }
    }

    private func merge(_ left: Int, _ right: Int) -> Merge? {
        merges[Neighbours(left: Int32(left), right: Int32(right))]
    }

    /// A pair that could be merged when it was found; its tokens tell whether it still can.
    private struct Candidate: Comparable {
        let rank: Int
        let at: Int
        let left: Int
        let right: Int
        let result: Int

        static func < (first: Candidate, second: Candidate) -> Bool {
            (first.rank, first.at) < (second.rank, second.at)
        }
    }
}

/// Tokens in a row from which some vanish.
private struct Chain {
    static let gone = -1

    private(set) var tokens: [Int]
    private var following: [Int]
    private var preceding: [Int]

    init(_ tokens: [Int]) {
        self.tokens = tokens
        following = tokens.indices.map { $0 + 1 }
        preceding = tokens.indices.map { $0 - 1 }
    }

    func next(after place: Int) -> Int? {
        following[place] < tokens.count ? following[place] : nil
    }

    func previous(before place: Int) -> Int? {
        preceding[place] >= 0 ? preceding[place] : nil
    }

    /// Put `token` in the place of this one and the next.
    mutating func merge(_ place: Int, into token: Int) {
        let right = following[place]
        tokens[place] = token
        tokens[right] = Self.gone
        following[place] = following[right]
        if following[right] < tokens.count { preceding[following[right]] = place }
    }
}
