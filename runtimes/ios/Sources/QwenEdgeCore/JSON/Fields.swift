/// One JSON object from outside, read field by field; `path` names it in errors, such as `files.0`.
struct Fields {
    private let path: String
    private let file: String
    private let kind: EdgeError.Kind
    private let values: JSONObject
    private var seen: Set<String> = []

    /// `file` and `kind` are what errors say of the file that the object stands in.
    init(_ value: JSON, path: String = "", of file: String, kind: EdgeError.Kind) throws {
        self.path = path
        self.file = file
        self.kind = kind
        guard let object = value.object else {
            throw refusal(kind, file, path.isEmpty ? "the file" : path, "expected an object, found \(value.kind)")
        }
        values = object
    }

    mutating func value(_ name: String) throws -> JSON {
        seen.insert(name)
        guard let value = values[name] else { throw refused(name, "is missing") }
        return value
    }

    func has(_ name: String) -> Bool { values[name] != nil }

    /// The value of a field that may be missing or null.
    mutating func optional(_ name: String) -> JSON? {
        seen.insert(name)
        guard let value = values[name], value != .null else { return nil }
        return value
    }

    mutating func fields(_ name: String) throws -> Fields {
        try Fields(try value(name), path: place(name), of: file, kind: kind)
    }

    mutating func objects<Item>(
        _ name: String, _ count: ClosedRange<Int>, _ read: (inout Fields) throws -> Item
    ) throws -> [Item] {
        let items = try list(name, count)
        return try items.enumerated().map { index, item in
            var fields = try Fields(item, path: "\(place(name)).\(index)", of: file, kind: kind)
            let found = try read(&fields)
            try fields.done()
            return found
        }
    }

    mutating func integer(_ name: String, _ range: ClosedRange<Int>) throws -> Int {
        try checked(try value(name), name, range)
    }

    mutating func integerOrNull(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
        let found = try value(name)
        return found == .null ? nil : try checked(found, name, range)
    }

    /// nil where the field is missing or null.
    mutating func integerIfGiven(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
        try optional(name).map { try checked($0, name, range) }
    }

    mutating func integers(_ name: String, _ range: ClosedRange<Int>, _ count: ClosedRange<Int>) throws -> [Int] {
        try list(name, count).enumerated().map { index, item in try checked(item, "\(name).\(index)", range) }
    }

    mutating func number(_ name: String) throws -> Double {
        try checked(try value(name), name)
    }

    mutating func numbers(_ name: String, _ count: ClosedRange<Int>) throws -> [Double] {
        try list(name, count).enumerated().map { index, item in try checked(item, "\(name).\(index)") }
    }

    mutating func text(_ name: String, _ form: Form) throws -> String {
        try checked(try value(name), name, form)
    }

    mutating func textOrNull(_ name: String, _ form: Form) throws -> String? {
        let found = try value(name)
        return found == .null ? nil : try checked(found, name, form)
    }

    mutating func choice<Choice: RawRepresentable>(_ name: String) throws -> Choice where Choice.RawValue == String {
        try chosen(try value(name), name)
    }

    mutating func choices<Choice: RawRepresentable>(
        _ name: String, _ count: ClosedRange<Int>
    ) throws -> [Choice] where Choice.RawValue == String {
        try list(name, count).enumerated().map { index, item in try chosen(item, "\(name).\(index)") }
    }

    mutating func list(_ name: String, _ count: ClosedRange<Int>) throws -> [JSON] {
        let found = try value(name)
        guard let items = found.array else { throw refused(name, "expected a list, found \(found.kind)") }
        guard count.contains(items.count) else {
            throw refused(name, "has \(items.count) items, expected \(count.lowerBound) to \(count.upperBound)")
        }
        return items
    }

    /// One object of a list, of which not all fields are asked for.
    mutating func item(_ name: String, _ index: Int) throws -> Fields {
        guard let items = try value(name).array, items.indices.contains(index) else {
            throw refused(name, "has no item \(index)")
        }
        return try Fields(items[index], path: "\(place(name)).\(index)", of: file, kind: kind)
    }

    /// The whole object, where its names are not known before.
    mutating func entries(_ name: String) throws -> [JSONObject.Field] {
        let found = try value(name)
        guard let object = found.object else { throw refused(name, "expected an object, found \(found.kind)") }
        return object.fields
    }

    /// Every field has to be one that somebody asked for.
    func done() throws {
        if let odd = values.fields.first(where: { !seen.contains($0.name) }) {
            throw refused(odd.name, "is a field that nobody knows")
        }
    }

    func refused(_ name: String, _ problem: String) -> EdgeError {
        refusal(kind, file, place(name), problem)
    }

    func checked(_ value: JSON, _ name: String, _ form: Form) throws -> String {
        guard let text = value.string else { throw refused(name, "expected a string, found \(value.kind)") }
        guard form.accepts(text) else { throw refused(name, "'\(text.prefix(100))' is not \(form.wanted)") }
        return text
    }

    private func checked(_ value: JSON, _ name: String, _ range: ClosedRange<Int>) throws -> Int {
        guard let number = value.integer else { throw refused(name, "expected an integer, found \(value.kind)") }
        guard range.contains(number) else {
            throw refused(name, "is \(number), expected \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    private func checked(_ value: JSON, _ name: String) throws -> Double {
        guard let number = value.double else { throw refused(name, "expected a number, found \(value.kind)") }
        return number
    }

    private func chosen<Choice: RawRepresentable>(
        _ value: JSON, _ name: String
    ) throws -> Choice where Choice.RawValue == String {
        guard let choice = value.string.flatMap(Choice.init(rawValue:)) else {
            throw refused(name, "'\(JSONWriter().write(value).prefix(100))' is no choice here")
        }
        return choice
    }

    private func place(_ name: String) -> String {
        path.isEmpty ? name : "\(path).\(name)"
    }
}

private func refusal(_ kind: EdgeError.Kind, _ file: String, _ place: String, _ problem: String) -> EdgeError {
    EdgeError(kind, "\(file): \(place): \(problem); copy the bundle again or export it again")
}

/// What a string has to look like.
struct Form {
    let wanted: String
    let accepts: @Sendable (String) -> Bool

    static let text = Form(wanted: "1 to 4096 characters") { (1...4096).contains($0.unicodeScalars.count) }
    static let path = Form(wanted: "1 to 512 characters") { (1...512).contains($0.unicodeScalars.count) }

    static let name = Form(wanted: "a name of letters, digits and ._+-") { text in
        (1...128).contains(text.utf8.count) && isLetterOrDigit(text.utf8.first!)
            && text.utf8.allSatisfy { isLetterOrDigit($0) || "._+-".utf8.contains($0) }
    }

    static let sha256 = Form(wanted: "64 hexadecimal digits") { text in
        text.utf8.count == 64 && text.utf8.allSatisfy { "0123456789abcdef".utf8.contains($0) }
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        let letter = Unicode.Scalar(byte)
        return letter.isASCII && (letter.properties.isAlphabetic || ("0"..."9").contains(letter))
    }
}
