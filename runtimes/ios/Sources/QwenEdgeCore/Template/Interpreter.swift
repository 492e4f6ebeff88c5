/// The variables of a part of a template; what it doesn't know, the part around it may.
final class Scope {
    private var values: [String: Value] = [:]
    private let outer: Scope?

    init(outer: Scope?) {
        self.outer = outer
    }

    subscript(name: String) -> Value? {
        get { values[name] ?? outer?[name] }
        set { values[name] = newValue }
    }
}

/// Runs a template. It computes text and nothing else: there is nothing to call but what is listed here, and there is an
/// end to what it may compute, since a template comes with a checkpoint from anywhere.
final class Interpreter {
    private static let mostSteps = 500_000
    private static let mostLetters = 16 * 1024 * 1024
    private static let deepestCall = 20

    private var out: Text = []
    private var steps = 0
    private var calls = 0
    private let globals: Scope
    private var macroScopes: [ObjectIdentifier: Scope] = [:]

    private enum Flow { case goesOn, breaks, continues }

    private init(_ globals: Scope) {
        self.globals = globals
    }

    static func run(_ statements: [Statement], _ variables: [(name: String, value: Value)]) throws -> String {
        let globals = Scope(outer: nil)
        for function in Value.Function.allCases { globals[function.rawValue] = .function(function) }
        for (name, value) in variables { globals[name] = value }
        let interpreter = Interpreter(globals)
        _ = try interpreter.run(statements, Scope(outer: globals))
        return String(interpreter.out)
    }

    /// One more step, or several, of which there may be so many.
    func countSteps(_ count: Int = 1) throws {
        steps += count
        if steps > Self.mostSteps { throw TemplateError("it takes more than \(Self.mostSteps) steps") }
    }

    /// A text that is not too long to go on with.
    func checked(_ text: Text) throws -> Text {
        if text.count > Self.mostLetters { throw TemplateError("a text of \(text.count) letters") }
        return text
    }

    // MARK: Statements

    private func run(_ statements: [Statement], _ scope: Scope) throws -> Flow {
        for statement in statements {
            let flow = try run(statement, scope)
            if flow != .goesOn { return flow }
        }
        return .goesOn
    }

    private func run(_ statement: Statement, _ scope: Scope) throws -> Flow {
        try countSteps()
        switch statement {
        case .text(let text): try print(text)
        case .output(let value): try print(try evaluate(value, scope).text())
        case .body(let body): return try run(body, scope)
        case .condition(let branches, let otherwise):
            let body = try branches.first { try evaluate($0.test, scope).isTrue }?.body ?? otherwise
            return try run(body, scope)
        case .loop(let loop): try run(loop, scope)
        case .assign(let target, let value): try assign(try evaluate(value, scope), to: target, scope)
        case .capture(let name, let body):
            let text = try captured { _ = try run(body, Scope(outer: scope)) }
            scope[name] = .text(text)
        case .macro(let macro):
            macroScopes[ObjectIdentifier(macro)] = scope
            scope[macro.name] = .macro(macro)
        case .breakLoop: return .breaks
        case .continueLoop: return .continues
        }
        return .goesOn
    }

    private func print(_ text: Text) throws {
        out += text
        _ = try checked(out)
    }

    private func captured(_ run: () throws -> Void) throws -> Text {
        let before = out
        out = []
        defer { out = before }
        try run()
        return out
    }

    private func run(_ loop: ForLoop, _ scope: Scope) throws {
        var items = try evaluate(loop.items, scope).items()
        if let filter = loop.filter {
            items = try items.filter { item in
                try countSteps()
                let inner = Scope(outer: scope)
                try bind(item, to: loop.targets, inner)
                return try evaluate(filter, inner).isTrue
            }
        }
        if items.isEmpty { _ = try run(loop.otherwise, Scope(outer: scope)) }
        for (index, item) in items.enumerated() {
            try countSteps()
            let inner = Scope(outer: scope)
            inner["loop"] = .loop(Loop(items: items, index: index))
            try bind(item, to: loop.targets, inner)
            if try run(loop.body, inner) == .breaks { break }
        }
    }

    private func assign(_ value: Value, to target: Target, _ scope: Scope) throws {
        switch target {
        case .names(let names): try bind(value, to: names, scope)
        case .field(let name, let field):
            guard case .namespace(let namespace)? = scope[name] else {
                throw TemplateError("'\(name)' is no namespace, so '\(field)' of it cannot be set")
            }
            namespace.fields[field] = value
        }
    }

    private func bind(_ value: Value, to names: [String], _ scope: Scope) throws {
        if names.count == 1 {
            scope[names[0]] = value
            return
        }
        let items = try value.items()
        guard items.count == names.count else {
            throw TemplateError("\(items.count) values for \(names.count) names")
        }
        for (name, item) in zip(names, items) { scope[name] = item }
    }

    // MARK: Calls

    /// Call a macro or a global function.
    func call(_ callee: Value, _ arguments: EvaluatedArguments) throws -> Value {
        switch callee {
        case .macro(let macro): return try call(macro, arguments)
        case .function(.namespace):
            let namespace = Namespace()
            for (name, value) in arguments.named { namespace.fields[name] = value }
            return .namespace(namespace)
        case .function(.raiseException):
            throw Refusal(reason: try arguments.positional.first?.printed() ?? "")
        case .function(.range): return try range(arguments)
        default: throw TemplateError("\(callee.kind) cannot be called")
        }
    }

    private func call(_ macro: Macro, _ arguments: EvaluatedArguments) throws -> Value {
        calls += 1
        defer { calls -= 1 }
        if calls > Self.deepestCall { throw TemplateError("macros call each other deeper than \(Self.deepestCall)") }
        guard arguments.positional.count <= macro.parameters.count else {
            throw TemplateError("'\(macro.name)' takes \(macro.parameters.count) arguments")
        }
        let scope = Scope(outer: macroScopes[ObjectIdentifier(macro)] ?? globals)
        for (index, parameter) in macro.parameters.enumerated() {
            if index < arguments.positional.count {
                scope[parameter.name] = arguments.positional[index]
            } else if let given = arguments[parameter.name] {
                scope[parameter.name] = given
            } else {
                scope[parameter.name] = try parameter.value.map { try evaluate($0, scope) } ?? .undefined(parameter.name)
            }
        }
        return .text(try captured { _ = try run(macro.body, scope) })
    }

    private func range(_ arguments: EvaluatedArguments) throws -> Value {
        let bounds = try arguments.positional.map { try $0.integer() }
        let (from, to) = bounds.count == 1 ? (0, bounds[0]) : (bounds.first ?? 0, bounds.count > 1 ? bounds[1] : 0)
        let step = bounds.count > 2 ? bounds[2] : 1
        guard (1...3).contains(bounds.count), step != 0 else { throw TemplateError("'range' of \(bounds)") }
        let length = Double(to) / Double(step) - Double(from) / Double(step)
        guard length <= 100_000 else { throw TemplateError("a range of more than 100000 numbers") }
        try countSteps(Int(max(0, length)))
        return .list(stride(from: from, to: to, by: step).map(Value.integer))
    }
}

/// The template itself refuses the conversation: `raise_exception`.
struct Refusal: Error {
    let reason: String
}

/// The values of a call's arguments.
struct EvaluatedArguments {
    var positional: [Value] = []
    var named: [(name: String, value: Value)] = []

    subscript(name: String) -> Value? {
        named.first { $0.name == name }?.value
    }

    /// An argument by its place or its name.
    func argument(_ place: Int, _ name: String) -> Value? {
        place < positional.count ? positional[place] : self[name]
    }
}
