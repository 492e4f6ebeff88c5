/// Text that is no JSON; `offset` counts bytes from the start.
public struct JSONError: Error, CustomStringConvertible, Sendable {
    public let problem: String
    public let offset: Int

    public var description: String { "\(problem) at byte \(offset)" }
}

/// Reads JSON that nobody vouches for, strictly by RFC 8259: no name twice, no NaN, nothing after the end, limited depth.
///
/// Large files are read piece by piece with `fields` and `items`, which build nothing.
public final class JSONReader {
    private static let deepest = 200

    private let bytes: [UInt8]
    private var at = 0
    private var depth = 0

    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The one value of a whole text.
    public static func document(_ bytes: [UInt8]) throws(JSONError) -> JSON {
        let reader = JSONReader(bytes)
        let value = try reader.value()
        try reader.end()
        return value
    }

    /// Nothing but white space may be left.
    public func end() throws(JSONError) {
        skipSpace()
        if at < bytes.count { throw error("something follows the value") }
    }

    /// The next value, whatever it is.
    public func value() throws(JSONError) -> JSON {
        skipSpace()
        switch peek() {
        case UInt8(ascii: "{"):
            var fields: [JSONObject.Field] = []
            try self.fields { (name) throws(JSONError) in
                fields.append(JSONObject.Field(name: try text(name), value: try value()))
            }
            return .object(JSONObject(fields: fields))
        case UInt8(ascii: "["):
            var items: [JSON] = []
            try self.items { () throws(JSONError) in items.append(try value()) }
            return .array(items)
        case UInt8(ascii: "\""): return .string(try text(try string()))
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    /// The fields of the next object, with their names in UTF-8; `onField` has to read the value of each.
    public func fields(_ onField: ([UInt8]) throws(JSONError) -> Void) throws(JSONError) {
        var names: Set<[UInt8]> = []
        try sequence(open: UInt8(ascii: "{"), close: UInt8(ascii: "}")) { () throws(JSONError) in
            skipSpace()
            let name = try string()
            if !names.insert(name).inserted { throw error("key '\(String(decoding: name, as: UTF8.self))' stands twice") }
            skipSpace()
            try expect(UInt8(ascii: ":"))
            try onField(name)
        }
    }

    /// The items of the next array; `onItem` has to read each.
    public func items(_ onItem: () throws(JSONError) -> Void) throws(JSONError) {
        try sequence(open: UInt8(ascii: "["), close: UInt8(ascii: "]"), onItem)
    }

    /// The next value, which has to be a string, in UTF-8 (checked by `text` only).
    public func string() throws(JSONError) -> [UInt8] {
        skipSpace()
        try expect(UInt8(ascii: "\""))
        var found: [UInt8] = []
        while true {
            let byte = try next()
            switch byte {
            case UInt8(ascii: "\""): return found
            case UInt8(ascii: "\\"): found += try escaped()
            case 0..<0x20: throw error("a control character in a string")
            default: found.append(byte)
            }
        }
    }

    private func text(_ bytes: [UInt8]) throws(JSONError) -> String {
        guard let text = String(validating: bytes, as: UTF8.self) else { throw error("a string that is not UTF-8") }
        return text
    }

    private func sequence(
        open: UInt8, close: UInt8, _ onItem: () throws(JSONError) -> Void
    ) throws(JSONError) {
        skipSpace()
        try expect(open)
        depth += 1
        if depth > Self.deepest { throw error("nested deeper than \(Self.deepest)") }
        skipSpace()
        if peek() == close {
            at += 1
        } else {
            var last: UInt8
            repeat {
                try onItem()
                skipSpace()
                last = try next()
                if last != close, last != UInt8(ascii: ",") { throw error("expected ',' or the end") }
            } while last != close
        }
        depth -= 1
    }

    private func escaped() throws(JSONError) -> [UInt8] {
        let byte = try next()
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0C]
        case UInt8(ascii: "n"): return [0x0A]
        case UInt8(ascii: "r"): return [0x0D]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"): return Array(String(try unicodeScalar()).utf8)
        default: throw error("an unknown escape")
        }
    }

    private func unicodeScalar() throws(JSONError) -> Unicode.Scalar {
        var code = try fourDigits()
        if (0xD800..<0xDC00).contains(code) {
            try expect(UInt8(ascii: "\\"))
            try expect(UInt8(ascii: "u"))
            let low = try fourDigits()
            guard (0xDC00..<0xE000).contains(low) else { throw error("half a surrogate pair") }
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        }
        guard let scalar = Unicode.Scalar(code) else { throw error("half a surrogate pair") }
        return scalar
    }

    private func fourDigits() throws(JSONError) -> UInt32 {
        var code: UInt32 = 0
        for _ in 0..<4 {
            let letter = Unicode.Scalar(try next())
            guard letter.isASCII, let digit = Character(letter).hexDigitValue else {
                throw error("four hexadecimal digits have to follow '\\u'")
            }
            code = code * 16 + UInt32(digit)
        }
        return code
    }

    private func number() throws(JSONError) -> JSON {
        let start = at
        if peek() == UInt8(ascii: "-") { at += 1 }
        if peek() == UInt8(ascii: "0") { at += 1 } else { try digits() }
        var isInteger = true
        if peek() == UInt8(ascii: ".") {
            isInteger = false
            at += 1
            try digits()
        }
        if peek() == UInt8(ascii: "e") || peek() == UInt8(ascii: "E") {
            isInteger = false
            at += 1
            if peek() == UInt8(ascii: "+") || peek() == UInt8(ascii: "-") { at += 1 }
            try digits()
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        if isInteger, let value = Int(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite else { throw error("a number beyond all bounds") }
        return .number(value)
    }

    private func digits() throws(JSONError) {
        let start = at
        while let byte = peek(), (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { at += 1 }
        if at == start { throw error("expected a value") }
    }

    private func word(_ word: StaticString, _ value: JSON) throws(JSONError) -> JSON {
        for index in 0..<word.utf8CodeUnitCount { try expect(word.utf8Start[index]) }
        return value
    }

    private func skipSpace() {
        while let byte = peek(), byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { at += 1 }
    }

    private func expect(_ byte: UInt8) throws(JSONError) {
        if try next() != byte { throw error("expected '\(Unicode.Scalar(byte))'") }
    }

    private func peek() -> UInt8? {
        at < bytes.count ? bytes[at] : nil
    }

    private func next() throws(JSONError) -> UInt8 {
        guard let byte = peek() else { throw error("the text ends too early") }
        at += 1
        return byte
    }

    private func error(_ problem: String) -> JSONError {
        JSONError(problem: problem, offset: at)
    }
}
