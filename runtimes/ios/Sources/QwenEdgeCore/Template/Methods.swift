extension Interpreter {
    /// Call a method of a text or a mapping, or a value that a namespace holds; nothing else has any.
    func callMethod(_ name: String, of value: Value, _ arguments: EvaluatedArguments) throws -> Value {
        switch value {
        case .text(let text): return try callMethod(name, of: text, arguments)
        case .dictionary(let entries): return try callMethod(name, of: entries, value, arguments)
        case .namespace(let namespace): return try call(namespace.fields[name] ?? .undefined(name), arguments)
        default: throw TemplateError("\(value.kind) has no method '\(name)'")
        }
    }

    private func callMethod(
        _ name: String, of entries: [Value.Entry], _ value: Value, _ arguments: EvaluatedArguments
    ) throws -> Value {
        switch name {
        case "items": return .list(entries.map { .tuple([$0.key, $0.value]) })
        case "keys": return .list(entries.map(\.key))
        case "values": return .list(entries.map(\.value))
        case "get":
            guard let key = arguments.positional.first else { throw TemplateError("'get' needs a key") }
            return entries.first { $0.key.isEqual(to: key) }?.value ?? arguments.argument(1, "default") ?? .none
        default: throw TemplateError("a mapping has no method '\(name)'")
        }
    }

    private func callMethod(_ name: String, of text: Text, _ arguments: EvaluatedArguments) throws -> Value {
        func part(_ place: Int) throws -> Text? {
            guard place < arguments.positional.count, !arguments.positional[place].isNone else { return nil }
            guard case .text(let part) = arguments.positional[place] else { throw TemplateError("'\(name)' takes texts") }
            return part
        }
        func needed(_ place: Int) throws -> Text {
            guard let part = try part(place) else { throw TemplateError("'\(name)' needs a text") }
            return part
        }
        switch name {
        case "strip": return .text(text.stripped(of: try part(0)))
        case "lstrip": return .text(text.strippedStart(of: try part(0)))
        case "rstrip": return .text(text.strippedEnd(of: try part(0)))
        case "startswith": return .bool(text.starts(with: try needed(0)))
        case "endswith": return .bool(text.reversed().starts(with: try needed(0).reversed()))
        case "replace": return .text(try checked(text.replacing(try needed(0), with: try needed(1))))
        case "upper": return Value(String(text).uppercased())
        case "lower": return Value(String(text).lowercased())
        case "capitalize": return .text(text.capitalized())
        case "split":
            let most = try arguments.argument(1, "maxsplit")?.integer()
            let separator = try part(0)
            if separator?.isEmpty == true { throw TemplateError("'split' needs a separator") }
            let pieces = text.pieces(separatedBy: separator, most: most.flatMap { $0 < 0 ? nil : $0 })
            return .list(pieces.map(Value.text))
        case "join":
            guard let items = try arguments.positional.first?.items() else { throw TemplateError("'join' needs a list") }
            return .text(try checked(Text(items.map { try $0.text() }.joined(separator: text))))
        default: throw TemplateError("a text has no method '\(name)'")
        }
    }
}
