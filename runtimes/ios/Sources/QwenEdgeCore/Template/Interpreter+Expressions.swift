import Foundation

extension Interpreter {
    func evaluate(_ expression: Expression, _ scope: Scope) throws -> Value {
        try countSteps()
        switch expression {
        case .literal(let value): return value
        case .name(let name): return scope[name] ?? .undefined(name)
        case .list(let items): return .list(try items.map { try evaluate($0, scope) })
        case .tuple(let items): return .tuple(try items.map { try evaluate($0, scope) })
        case .dictionary(let entries):
            return .dictionary(
                try entries.map { Value.Entry(key: try evaluate($0.key, scope), value: try evaluate($0.value, scope)) })
        case .not(let value): return .bool(!(try evaluate(value, scope).isTrue))
        case .and(let left, let right):
            let first = try evaluate(left, scope)
            return first.isTrue ? try evaluate(right, scope) : first
        case .or(let left, let right):
            let first = try evaluate(left, scope)
            return first.isTrue ? first : try evaluate(right, scope)
        case .choice(let test, let then, let otherwise):
            if try evaluate(test, scope).isTrue { return try evaluate(then, scope) }
            return try otherwise.map { try evaluate($0, scope) } ?? .undefined("the other choice")
        case .negative(let value): return try negated(try evaluate(value, scope))
        case .positive(let value): return try evaluate(value, scope)
        case .arithmetic(let operation, let left, let right):
            return try arithmetic(operation, try evaluate(left, scope), try evaluate(right, scope))
        case .comparison(let first, let others): return .bool(try compares(first, others, scope))
        case .attribute(let value, let name): return try attribute(name, of: try evaluate(value, scope))
        case .item(let value, let key): return try item(try evaluate(key, scope), of: try evaluate(value, scope))
        case .slice(let value, let from, let to, let step):
            return try evaluate(value, scope).sliced(
                from: try bound(from, scope), to: try bound(to, scope), step: try bound(step, scope) ?? 1)
        case .call(let callee, let arguments): return try call(callee, arguments, scope)
        case .filter(let filter, let value, let arguments):
            return try apply(filter, to: try evaluate(value, scope), try evaluate(arguments, scope))
        case .test(let test, let value, let arguments):
            return .bool(try holds(test, for: try evaluate(value, scope), try evaluate(arguments, scope)))
        }
    }

    private func evaluate(_ arguments: Arguments, _ scope: Scope) throws -> EvaluatedArguments {
        EvaluatedArguments(
            positional: try arguments.positional.map { try evaluate($0, scope) },
            named: try arguments.named.map { ($0.name, try evaluate($0.value, scope)) })
    }

    private func bound(_ expression: Expression?, _ scope: Scope) throws -> Int? {
        guard let expression, case let value = try evaluate(expression, scope), !value.isNone else { return nil }
        return try value.integer()
    }

    /// A call of a method is an attribute with arguments.
    private func call(_ callee: Expression, _ arguments: Arguments, _ scope: Scope) throws -> Value {
        let values = try evaluate(arguments, scope)
        if case .attribute(let target, let name) = callee {
            return try callMethod(name, of: try evaluate(target, scope), values)
        }
        return try call(try evaluate(callee, scope), values)
    }

    private func attribute(_ name: String, of value: Value) throws -> Value {
        switch value {
        case .undefined(let missing): throw TemplateError("'\(missing)' is undefined, so it has no '\(name)'")
        case .namespace(let namespace): namespace.fields[name] ?? .undefined(name)
        case .loop(let loop): loop.attribute(name) ?? .undefined("loop.\(name)")
        default: value[name] ?? .undefined(name)
        }
    }

    private func item(_ key: Value, of value: Value) throws -> Value {
        switch (value, key) {
        case (.undefined(let missing), _): throw TemplateError("'\(missing)' is undefined, so it has no items")
        case (.list(let items), .integer(let index)), (.tuple(let items), .integer(let index)):
            let place = index < 0 ? index + items.count : index
            return items.indices.contains(place) ? items[place] : .undefined("item \(index)")
        case (.text(let text), .integer(let index)):
            let place = index < 0 ? index + text.count : index
            return text.indices.contains(place) ? .text([text[place]]) : .undefined("letter \(index)")
        case (.dictionary(let entries), _):
            return try entries.first { $0.key.isEqual(to: key) }?.value ?? .undefined(try key.printed())
        case (_, .text(let name)): return try attribute(String(name), of: value)
        default: return .undefined(try key.printed())
        }
    }

    private func compares(_ first: Expression, _ others: [(Comparison, Expression)], _ scope: Scope) throws -> Bool {
        var left = try evaluate(first, scope)
        for (operation, expression) in others {
            let right = try evaluate(expression, scope)
            guard try left.compares(operation, right) else { return false }
            left = right
        }
        return true
    }

    private func negated(_ value: Value) throws -> Value {
        switch value {
        case .integer(let number) where number != .min: .integer(-number)
        case .number(let number): .number(-number)
        case .bool(let flag): .integer(flag ? -1 : 0)
        default: throw TemplateError("\(value.kind) has no negative")
        }
    }

    private func arithmetic(_ operation: Arithmetic, _ left: Value, _ right: Value) throws -> Value {
        switch (operation, left, right) {
        case (.concatenate, _, _): return .text(try checked(left.text() + right.text()))
        case (.add, .text(let first), .text(let second)): return .text(try checked(first + second))
        case (.add, .list(let first), .list(let second)): return .list(first + second)
        case (.multiply, .text(let text), .integer(let count)), (.multiply, .integer(let count), .text(let text)):
            guard count <= 1_000_000 else { throw TemplateError("a text \(count) times") }
            return .text(try checked(Text(repeatElement(text, count: max(0, count)).joined())))
        default: return try calculated(operation, left, right)
        }
    }

    private func calculated(_ operation: Arithmetic, _ left: Value, _ right: Value) throws -> Value {
        if let first = left.wholeNumber, let second = right.wholeNumber, operation != .divide,
            let result = try integer(operation, first, second)
        {
            return .integer(result)
        }
        guard let first = left.anyNumber, let second = right.anyNumber else {
            throw TemplateError("\(left.kind) \(operation.rawValue) \(right.kind) has no meaning")
        }
        return .number(try number(operation, first, second))
    }

    /// The whole number that comes out; nil where only a fraction can hold it.
    private func integer(_ operation: Arithmetic, _ first: Int, _ second: Int) throws -> Int? {
        if [.divideToFloor, .remainder].contains(operation), second == 0 { throw TemplateError("a division by zero") }
        let (result, overflows) =
            switch operation {
            case .add: first.addingReportingOverflow(second)
            case .subtract: first.subtractingReportingOverflow(second)
            case .multiply: first.multipliedReportingOverflow(by: second)
            case .divideToFloor: (Int((Double(first) / Double(second)).rounded(.down)), second == -1 && first == .min)
            case .remainder: second == -1 ? (0, false) : ((first % second + second) % second, false)
            case .divide, .power, .concatenate: (0, true)
            }
        if overflows, operation != .power { throw TemplateError("a number beyond 64 bits") }
        return overflows ? nil : result
    }

    private func number(_ operation: Arithmetic, _ first: Double, _ second: Double) throws -> Double {
        if [.divide, .divideToFloor, .remainder].contains(operation), second == 0 {
            throw TemplateError("a division by zero")
        }
        return switch operation {
        case .add: first + second
        case .subtract: first - second
        case .multiply: first * second
        case .divide: first / second
        case .divideToFloor: (first / second).rounded(.down)
        case .remainder: first - second * (first / second).rounded(.down)
        case .power: pow(first, second)
        case .concatenate: throw TemplateError("numbers cannot be joined")
        }
    }
}
