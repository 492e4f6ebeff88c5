/// What can stand behind `|`.
enum Filter: String {
    case capitalize, count, `default`, first, items, join, last, length, list, lower, map, reject, rejectattr, replace, safe
    case select, selectattr, string, tojson, trim, upper
    case d
    case int
}

extension Interpreter {
    func apply(_ filter: Filter, to value: Value, _ arguments: EvaluatedArguments) throws -> Value {
        switch filter {
        case .capitalize: return .text(try value.text().capitalized())
        case .lower: return Value(try value.printed().lowercased())
        case .upper: return Value(try value.printed().uppercased())
        case .string, .safe: return .text(try value.text())
        case .trim: return .text(try value.text().stripped(of: arguments.argument(0, "chars")?.text()))
        case .replace:
            guard arguments.positional.count == 2 else { throw TemplateError("'replace' takes two texts") }
            let parts = try arguments.positional.map { try $0.text() }
            return .text(try checked(value.text().replacing(parts[0], with: parts[1])))
        case .length, .count: return .integer(try length(of: value))
        case .first: return try value.items().first ?? .undefined("the first item")
        case .last: return try value.items().last ?? .undefined("the last item")
        case .list: return .list(try value.items())
        case .items: return .list(try entries(of: value).map { .tuple([$0.key, $0.value]) })
        case .join:
            let separator = try arguments.argument(0, "d")?.text() ?? []
            return .text(try checked(Text(value.items().map { try $0.text() }.joined(separator: separator))))
        case .int: return .integer(try wholeNumber(of: value, otherwise: arguments.argument(0, "default")))
        case .default, .d: return try defaulted(value, arguments)
        case .tojson: return try toJSON(value, arguments)
        case .map: return .list(try value.items().map { try mapped($0, arguments) })
        case .select, .reject, .selectattr, .rejectattr: return try selected(value, filter, arguments)
        }
    }

    private func length(of value: Value) throws -> Int {
        switch value {
        case .text(let text): text.count
        case .undefined, .list, .tuple, .dictionary: try value.items().count
        default: throw TemplateError("\(value.kind) has no length")
        }
    }

    private func entries(of value: Value) throws -> [Value.Entry] {
        switch value {
        case .undefined: []
        case .dictionary(let entries): entries
        default: throw TemplateError("\(value.kind) has no items")
        }
    }

    private func wholeNumber(of value: Value, otherwise: Value?) throws -> Int {
        switch value {
        case .text(let text): try Int(String(text.stripped(of: nil))) ?? otherwise?.integer() ?? 0
        case .number(let number): Int(exactly: number.rounded(.towardZero)) ?? 0
        default: try value.wholeNumber ?? otherwise?.integer() ?? 0
        }
    }

    private func defaulted(_ value: Value, _ arguments: EvaluatedArguments) throws -> Value {
        let other = arguments.argument(0, "default_value") ?? Value("")
        if case .undefined = value { return other }
        return arguments.argument(1, "boolean")?.isTrue == true && !value.isTrue ? other : value
    }

    private func toJSON(_ value: Value, _ arguments: EvaluatedArguments) throws -> Value {
        if let odd = arguments.named.first(where: { $0.name != "indent" && !($0.name == "ensure_ascii" && !$0.value.isTrue) }) {
            throw TemplateError("'tojson' with '\(odd.name)'")
        }
        let indent = try arguments["indent"].flatMap { $0.isNone ? nil : try $0.integer() }
        return .text(try checked(Text(JSONWriter(indent: indent).write(try value.json()).unicodeScalars)))
    }

    private func mapped(_ item: Value, _ arguments: EvaluatedArguments) throws -> Value {
        if let name = try arguments["attribute"]?.printed() {
            let found = item[name] ?? .undefined(name)
            if case .undefined = found, let other = arguments["default"] { return other }
            return found
        }
        guard let name = try arguments.positional.first?.printed(), let filter = Filter(rawValue: name) else {
            throw TemplateError("'map' needs an attribute or a filter")
        }
        return try apply(filter, to: item, EvaluatedArguments(positional: Array(arguments.positional.dropFirst())))
    }

    /// The items for which a test holds (or, with `reject`, does not); of an attribute with `selectattr`.
    private func selected(_ value: Value, _ filter: Filter, _ arguments: EvaluatedArguments) throws -> Value {
        var rest = arguments.positional[...]
        let attribute = filter == .selectattr || filter == .rejectattr ? try rest.popFirst()?.printed() : nil
        let name = try rest.popFirst()?.printed()
        let test = name.flatMap(Test.init)
        if let name, test == nil { throw TemplateError("there is no test '\(name)'") }
        let wanted = filter == .select || filter == .selectattr
        return .list(
            try value.items().filter { item in
                let subject = attribute.map { item[$0] ?? .undefined($0) } ?? item
                let found = try test.map { try holds($0, for: subject, EvaluatedArguments(positional: Array(rest))) }
                return (found ?? subject.isTrue) == wanted
            })
    }
}
