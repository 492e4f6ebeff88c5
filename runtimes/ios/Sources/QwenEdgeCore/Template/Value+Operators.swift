extension Value {
    var isNone: Bool { if case .none = self { true } else { false } }

    /// A whole number; true and false are 1 and 0, as in Python.
    var wholeNumber: Int? {
        switch self {
        case .integer(let value): value
        case .bool(let value): value ? 1 : 0
        default: nil
        }
    }

    var anyNumber: Double? {
        if case .number(let value) = self { value } else { wholeNumber.map(Double.init) }
    }

    func integer() throws -> Int {
        guard let number = wholeNumber else { throw TemplateError("\(kind) is no whole number") }
        return number
    }

    func isEqual(to other: Value) -> Bool {
        switch (self, other) {
        case (.undefined, .undefined), (.none, .none): true
        case (.text(let first), .text(let second)): first == second
        case (.list(let first), .list(let second)), (.tuple(let first), .tuple(let second)):
            first.count == second.count && zip(first, second).allSatisfy { $0.isEqual(to: $1) }
        case (.dictionary(let first), .dictionary(let second)):
            first.count == second.count
                && first.allSatisfy { entry in
                    second.contains { $0.key.isEqual(to: entry.key) && $0.value.isEqual(to: entry.value) }
                }
        case (.namespace(let first), .namespace(let second)): first === second
        case (.macro(let first), .macro(let second)): first === second
        default: if let first = anyNumber, let second = other.anyNumber { first == second } else { false }
        }
    }

    func compares(_ operation: Comparison, _ other: Value) throws -> Bool {
        switch operation {
        case .equal: isEqual(to: other)
        case .notEqual: !isEqual(to: other)
        case .isIn: try other.contains(self)
        case .isNotIn: !(try other.contains(self))
        case .less: try isLess(than: other)
        case .greater: try other.isLess(than: self)
        case .lessOrEqual: !(try other.isLess(than: self))
        case .greaterOrEqual: !(try isLess(than: other))
        }
    }

    func contains(_ part: Value) throws -> Bool {
        switch (self, part) {
        case (.text(let text), .text(let part)): text.firstPlace(of: part) != nil
        case (.text, _): throw TemplateError("\(part.kind) cannot be in a text")
        default: try items().contains { $0.isEqual(to: part) }
        }
    }

    private func isLess(than other: Value) throws -> Bool {
        if case .text(let first) = self, case .text(let second) = other {
            return first.lexicographicallyPrecedes(second) { $0.value < $1.value }
        }
        guard let first = anyNumber, let second = other.anyNumber else {
            throw TemplateError("\(kind) and \(other.kind) have no order")
        }
        return first < second
    }

    /// The items from one place to another, as Python slices.
    func sliced(from: Int?, to: Int?, step: Int) throws -> Value {
        guard step != 0 else { throw TemplateError("a slice with step 0") }
        switch self {
        case .text(let text): return .text(Self.places(text.count, from, to, step).map { text[$0] })
        case .list(let items): return .list(Self.places(items.count, from, to, step).map { items[$0] })
        case .tuple(let items): return .tuple(Self.places(items.count, from, to, step).map { items[$0] })
        default: throw TemplateError("\(kind) has no slices")
        }
    }

    private static func places(_ count: Int, _ from: Int?, _ to: Int?, _ step: Int) -> [Int] {
        let (low, high) = step > 0 ? (0, count) : (-1, count - 1)
        func clamped(_ place: Int?, _ missing: Int) -> Int {
            guard let place else { return missing }
            return min(max(place < 0 ? place + count : place, low), high)
        }
        return Array(
            stride(from: clamped(from, step > 0 ? low : high), to: clamped(to, step > 0 ? high : low), by: step))
    }
}
