/// Writes JSON as Python's `json.dumps(value, ensure_ascii=False)` does, so that texts and hashes agree with Python's.
public struct JSONWriter: Sendable {
    private let betweenItems: String
    private let afterName: String
    private let indent: Int?
    private let sortsNames: Bool

    public init(betweenItems: String = ", ", afterName: String = ": ", indent: Int? = nil, sortsNames: Bool = false) {
        self.betweenItems = betweenItems
        self.afterName = afterName
        self.indent = indent
        self.sortsNames = sortsNames
    }

    /// The text of one value.
    public func write(_ value: JSON) -> String {
        var out = ""
        append(value, to: &out, depth: 0)
        return out
    }

    private func append(_ value: JSON, to out: inout String, depth: Int) {
        switch value {
        case .null: out += "null"
        case .bool(let value): out += value ? "true" : "false"
        case .integer(let value): out += String(value)
        case .number(let value): out += shortestDecimal(value)
        case .string(let value): appendString(value, to: &out)
        case .array(let items):
            appendAll(items, "[", "]", to: &out, depth: depth) { append($0, to: &$1, depth: depth + 1) }
        case .object(let object):
            appendAll(sorted(object), "{", "}", to: &out, depth: depth) {
                appendString($0.name, to: &$1)
                $1 += afterName
                append($0.value, to: &$1, depth: depth + 1)
            }
        }
    }

    private func sorted(_ object: JSONObject) -> [JSONObject.Field] {
        guard sortsNames else { return object.fields }
        return object.fields.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    }

    private func appendAll<Item>(
        _ items: [Item], _ open: String, _ close: String, to out: inout String, depth: Int,
        append: (Item, inout String) -> Void
    ) {
        out += open
        for (index, item) in items.enumerated() {
            if index > 0 { out += indent == nil ? betweenItems : "," }
            appendLineBreak(to: &out, depth: depth + 1)
            append(item, &out)
        }
        if !items.isEmpty { appendLineBreak(to: &out, depth: depth) }
        out += close
    }

    private func appendLineBreak(to out: inout String, depth: Int) {
        guard let indent else { return }
        out += "\n" + String(repeating: " ", count: indent * depth)
    }

    private func appendString(_ text: String, to out: inout String) {
        out += "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case "\u{8}": out += "\\b"
            case "\u{C}": out += "\\f"
            case "\u{0}"..<"\u{20}":
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: out.unicodeScalars.append(scalar)
            }
        }
        out += "\""
    }
}

/// The shortest decimal that reads back as the same number, spelt as Python's `repr` does.
public func shortestDecimal(_ value: Double) -> String {
    guard value.isFinite else { return value.isNaN ? "nan" : value < 0 ? "-inf" : "inf" }
    let (digits, exponent) = shortestDigits(value.magnitude)
    let sign = value.sign == .minus ? "-" : ""
    guard (-4..<16).contains(exponent) else {
        let fraction = digits.count > 1 ? "." + digits.dropFirst() : ""
        let power = String(exponent.magnitude)
        return sign + digits.prefix(1) + fraction + "e" + (exponent < 0 ? "-" : "+") + (power.count < 2 ? "0" : "") + power
    }
    if exponent < 0 { return sign + "0." + String(repeating: "0", count: -exponent - 1) + digits }
    let padded = digits + String(repeating: "0", count: max(0, exponent + 1 - digits.count))
    let fraction = padded.dropFirst(exponent + 1)
    return sign + padded.prefix(exponent + 1) + "." + (fraction.isEmpty ? "0" : fraction)
}

/// Significant digits without zeros at either end, and the power of ten of the first one.
private func shortestDigits(_ value: Double) -> (digits: String, exponent: Int) {
    let parts = value.description.split(separator: "e")
    let number = parts[0].split(separator: ".", omittingEmptySubsequences: false)
    let whole = String(number[0]), fraction = number.count > 1 ? String(number[1]) : ""
    let power = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
    let all = whole + fraction
    let leading = all.prefix { $0 == "0" }.count
    guard leading < all.count else { return ("0", 0) }
    let trimmed = all.dropFirst(leading)
    let trailing = trimmed.reversed().prefix { $0 == "0" }.count
    return (String(trimmed.dropLast(trailing)), power + whole.count - 1 - leading)
}
