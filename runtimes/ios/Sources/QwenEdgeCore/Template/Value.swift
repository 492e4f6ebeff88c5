/// A text as Python sees it: code points. Swift's strings would count and compare what a reader takes for one character.
typealias Text = [Unicode.Scalar]

/// What an expression of a template evaluates to.
enum Value {
    /// A name that stands for nothing; it prints as nothing, and asking anything of it is an error.
    case undefined(String)
    case none
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case text(Text)
    case list([Value])
    case tuple([Value])
    case dictionary([Entry])
    case namespace(Namespace)
    case loop(Loop)
    case macro(Macro)
    case function(Function)

    struct Entry {
        let key: Value
        var value: Value
    }

    /// The global functions.
    enum Function: String, CaseIterable {
        case range, namespace
        case raiseException = "raise_exception"
    }
}

/// Variables that keep what a loop's body assigns to them: `namespace(n=0)`.
final class Namespace {
    var fields: [String: Value] = [:]
}

/// What `loop` stands for in the body of a `for`.
struct Loop {
    let items: [Value]
    let index: Int

    func attribute(_ name: String) -> Value? {
        switch name {
        case "index": .integer(index + 1)
        case "index0": .integer(index)
        case "revindex": .integer(items.count - index)
        case "revindex0": .integer(items.count - index - 1)
        case "first": .bool(index == 0)
        case "last": .bool(index == items.count - 1)
        case "length": .integer(items.count)
        case "previtem": index > 0 ? items[index - 1] : .undefined("loop.previtem")
        case "nextitem": index + 1 < items.count ? items[index + 1] : .undefined("loop.nextitem")
        default: nil
        }
    }
}

extension Value {
    init(_ json: JSON) {
        switch json {
        case .null: self = .none
        case .bool(let value): self = .bool(value)
        case .integer(let value): self = .integer(value)
        case .number(let value): self = .number(value)
        case .string(let value): self = .text(Text(value.unicodeScalars))
        case .array(let items): self = .list(items.map(Value.init))
        case .object(let object):
            self = .dictionary(
                object.fields.map { Entry(key: .text(Text($0.name.unicodeScalars)), value: Value($0.value)) })
        }
    }

    init(_ text: String) {
        self = .text(Text(text.unicodeScalars))
    }

    /// The value as JSON, for `tojson`.
    func json() throws -> JSON {
        switch self {
        case .none: .null
        case .bool(let value): .bool(value)
        case .integer(let value): .integer(value)
        case .number(let value): .number(value)
        case .text(let text): .string(String(text))
        case .list(let items), .tuple(let items): .array(try items.map { try $0.json() })
        case .dictionary(let entries):
            .object(
                JSONObject(
                    fields: try entries.map { JSONObject.Field(name: try $0.key.printed(), value: try $0.value.json()) }))
        case .undefined, .namespace, .loop, .macro, .function: throw TemplateError("\(kind) has no place in JSON")
        }
    }

    /// What the value counts as where a condition stands.
    var isTrue: Bool {
        switch self {
        case .undefined, .none: false
        case .bool(let value): value
        case .integer(let value): value != 0
        case .number(let value): value != 0
        case .text(let text): !text.isEmpty
        case .list(let items), .tuple(let items): !items.isEmpty
        case .dictionary(let entries): !entries.isEmpty
        case .namespace, .loop, .macro, .function: true
        }
    }

    /// The items that a `for` goes through: of a mapping its keys, of a text its code points.
    func items() throws -> [Value] {
        switch self {
        case .undefined: []
        case .list(let items), .tuple(let items): items
        case .text(let text): text.map { .text([$0]) }
        case .dictionary(let entries): entries.map(\.key)
        default: throw TemplateError("\(kind) cannot be gone through")
        }
    }

    subscript(name: String) -> Value? {
        guard case .dictionary(let entries) = self else { return nil }
        return entries.first { $0.key.isEqual(to: Value(name)) }?.value
    }

    var kind: String {
        switch self {
        case .undefined(let name): "'\(name)', which is undefined,"
        case .none: "none"
        case .bool: "a boolean"
        case .integer: "an integer"
        case .number: "a number"
        case .text: "a text"
        case .list: "a list"
        case .tuple: "a tuple"
        case .dictionary: "a mapping"
        case .namespace: "a namespace"
        case .loop: "a loop"
        case .macro: "a macro"
        case .function: "a function"
        }
    }
}

extension String {
    init(_ text: Text) {
        var scalars = String.UnicodeScalarView()
        scalars.append(contentsOf: text)
        self.init(scalars)
    }
}

/// Why a template cannot be compiled or run.
struct TemplateError: Error {
    let problem: String

    init(_ problem: String) {
        self.problem = problem
    }
}
