/// What can stand behind `is`.
enum Test: String {
    case boolean, defined, divisibleby, eq, equalto, even, `false`, float, `in`, integer, iterable, mapping, ne, none
    case number, odd, sequence, string, `true`, undefined
}

extension Interpreter {
    func holds(_ test: Test, for value: Value, _ arguments: EvaluatedArguments) throws -> Bool {
        switch (test, value) {
        case (.defined, _): !value.isUndefined
        case (.undefined, _): value.isUndefined
        case (.none, _): value.isNone
        case (.boolean, .bool), (.integer, .integer), (.float, .number), (.string, .text), (.mapping, .dictionary): true
        case (.true, .bool(let flag)): flag
        case (.false, .bool(let flag)): !flag
        case (.number, _): value.anyNumber != nil
        case (.iterable, .undefined), (.iterable, .text), (.iterable, .list), (.iterable, .tuple), (.iterable, .dictionary): true
        case (.sequence, .undefined), (.sequence, .text), (.sequence, .list), (.sequence, .tuple), (.sequence, .dictionary): true
        case (.odd, _): try value.integer() % 2 != 0
        case (.even, _): try value.integer() % 2 == 0
        case (.divisibleby, _): try value.integer() % divisor(arguments) == 0
        case (.equalto, _), (.eq, _): value.isEqual(to: try argument(of: test, arguments))
        case (.ne, _): !value.isEqual(to: try argument(of: test, arguments))
        case (.in, _): try argument(of: test, arguments).contains(value)
        default: false
        }
    }

    private func argument(of test: Test, _ arguments: EvaluatedArguments) throws -> Value {
        guard let argument = arguments.positional.first else { throw TemplateError("'\(test.rawValue)' of what?") }
        return argument
    }

    private func divisor(_ arguments: EvaluatedArguments) throws -> Int {
        let number = try argument(of: .divisibleby, arguments).integer()
        guard number > 0 else { throw TemplateError("nothing is divisible by \(number)") }
        return number
    }
}

extension Value {
    var isUndefined: Bool { if case .undefined = self { true } else { false } }
}
