// Texts as Python handles them: methods of `str`, `str()` and `repr()`.

extension Unicode.Scalar {
    /// Python's `str.isspace`, which is what `strip` and `\s` go by.
    var isPythonSpace: Bool {
        switch value {
        case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: true
        default: false
        }
    }

    /// Python's `str.isprintable` for one character.
    fileprivate var isPrintable: Bool {
        switch properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
        case .spaceSeparator: self == " "
        default: true
        }
    }
}

extension [Unicode.Scalar] {
    func strippedStart(of letters: Text?) -> Text {
        Text(drop { letters?.contains($0) ?? $0.isPythonSpace })
    }

    func strippedEnd(of letters: Text?) -> Text {
        Text(reversed().drop { letters?.contains($0) ?? $0.isPythonSpace }.reversed())
    }

    func stripped(of letters: Text?) -> Text {
        strippedStart(of: letters).strippedEnd(of: letters)
    }

    func firstPlace(of part: Text, from start: Int = 0) -> Int? {
        guard count - start >= part.count else { return nil }
        return (start...count - part.count).first { self[$0...].starts(with: part) }
    }

    func replacing(_ old: Text, with new: Text) -> Text {
        let pieces = old.isEmpty ? [[]] + map { [$0] } + [[]] : pieces(separatedBy: old, most: nil)
        return Text(pieces.joined(separator: new))
    }

    /// The pieces between separators, cut `most` times at most; without a separator the words between white space.
    func pieces(separatedBy separator: Text?, most: Int?) -> [Text] {
        guard let separator else { return words(most: most) }
        var pieces: [Text] = []
        var from = 0
        while pieces.count < most ?? .max, let place = firstPlace(of: separator, from: from) {
            pieces.append(Text(self[from..<place]))
            from = place + separator.count
        }
        return pieces + [Text(self[from...])]
    }

    private func words(most: Int?) -> [Text] {
        var words: [Text] = []
        var rest = self[...].drop { $0.isPythonSpace }
        while !rest.isEmpty {
            guard words.count < most ?? .max else { return words + [Text(rest).strippedEnd(of: nil)] }
            let word = rest.prefix { !$0.isPythonSpace }
            words.append(Text(word))
            rest = rest.dropFirst(word.count).drop { $0.isPythonSpace }
        }
        return words
    }

    func capitalized() -> Text {
        guard let first else { return [] }
        return Text(first.properties.titlecaseMapping.unicodeScalars) + Text(String(Text(dropFirst())).lowercased().unicodeScalars)
    }

    /// The text between quotes, as Python's `repr` shows it.
    func quoted() -> Text {
        let quote: Unicode.Scalar = contains("'") && !contains("\"") ? "\"" : "'"
        var found: Text = [quote]
        for letter in self {
            switch letter {
            case "\\", quote: found += ["\\", letter]
            case "\n": found += ["\\", "n"]
            case "\r": found += ["\\", "r"]
            case "\t": found += ["\\", "t"]
            case _ where letter.isPrintable: found.append(letter)
            default: found += escape(letter)
            }
        }
        return found + [quote]
    }

    private func escape(_ letter: Unicode.Scalar) -> Text {
        let digits = String(letter.value, radix: 16)
        let (mark, width) = letter.value < 0x100 ? ("x", 2) : letter.value < 0x10000 ? ("u", 4) : ("U", 8)
        return Text(("\\" + mark + String(repeating: "0", count: width - digits.count) + digits).unicodeScalars)
    }
}

extension Value {
    /// The value as `str()` shows it.
    func text() throws -> Text {
        switch self {
        case .text(let text): text
        case .undefined: []
        default: try represented()
        }
    }

    func printed() throws -> String {
        String(try text())
    }

    /// The value as `repr()` shows it.
    private func represented() throws -> Text {
        switch self {
        case .none: Text("None".unicodeScalars)
        case .bool(let value): Text((value ? "True" : "False").unicodeScalars)
        case .integer(let value): Text(String(value).unicodeScalars)
        case .number(let value): Text(shortestDecimal(value).unicodeScalars)
        case .text(let text): text.quoted()
        case .list(let items): ["["] + (try joined(items)) + ["]"]
        case .tuple(let items): ["("] + (try joined(items)) + (items.count == 1 ? [",", ")"] : [")"])
        case .dictionary(let entries):
            ["{"]
                + Text(
                    try entries.map { try $0.key.represented() + [":", " "] + $0.value.represented() }
                        .joined(separator: [",", " "])) + ["}"]
        case .undefined, .namespace, .loop, .macro, .function: throw TemplateError("\(kind) cannot be shown")
        }
    }

    private func joined(_ items: [Value]) throws -> Text {
        Text(try items.map { try $0.represented() }.joined(separator: [",", " "]))
    }
}
