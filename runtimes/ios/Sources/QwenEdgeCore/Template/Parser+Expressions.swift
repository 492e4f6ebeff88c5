/// Expressions, with jinja2's order of precedence.
extension Parser {
    private static let comparisons: [String: Comparison] = Dictionary(
        uniqueKeysWithValues: ["==", "!=", "<", "<=", ">", ">="].map { ($0, Comparison(rawValue: $0)!) })

    mutating func expression() throws -> Expression {
        try nested { try $0.choice() }
    }

    /// An expression, or several with commas between them, which make a tuple.
    mutating func tupleOrExpression(withChoice: Bool = true) throws -> Expression {
        func one(_ parser: inout Parser) throws -> Expression {
            withChoice ? try parser.expression() : try parser.nested { try $0.disjunction() }
        }
        let first = try one(&self)
        guard peek() == .symbol(",") else { return first }
        var items = [first]
        while takeSymbol(","), !endsTuple { items.append(try one(&self)) }
        return .tuple(items)
    }

    private var endsTuple: Bool {
        switch peek() {
        case nil, .blockEnd, .printEnd, .symbol(")"): true
        default: false
        }
    }

    private mutating func choice() throws -> Expression {
        var value = try disjunction()
        while takeName("if") {
            let test = try disjunction()
            value = .choice(test: test, then: value, otherwise: takeName("else") ? try expression() : nil)
        }
        return value
    }

    private mutating func disjunction() throws -> Expression {
        var left = try conjunction()
        while takeName("or") { left = .or(left, try conjunction()) }
        return left
    }

    private mutating func conjunction() throws -> Expression {
        var left = try negation()
        while takeName("and") { left = .and(left, try negation()) }
        return left
    }

    private mutating func negation() throws -> Expression {
        takeName("not") ? .not(try nested { try $0.negation() }) : try comparison()
    }

    private mutating func comparison() throws -> Expression {
        let first = try sum()
        var others: [(Comparison, Expression)] = []
        while let operation = comparisonOperator() { others.append((operation, try sum())) }
        return others.isEmpty ? first : .comparison(first, others)
    }

    private mutating func comparisonOperator() -> Comparison? {
        if case .symbol(let symbol) = peek(), let operation = Self.comparisons[symbol] {
            _ = takeSymbol(symbol)
            return operation
        }
        if takeName("in") { return .isIn }
        if peek() == .name("not"), peek(1) == .name("in") {
            _ = takeName("not") && takeName("in")
            return .isNotIn
        }
        return nil
    }

    private mutating func sum() throws -> Expression {
        try chain(["+", "-"]) { try $0.chain(["~"]) { try $0.product() } }
    }

    private mutating func product() throws -> Expression {
        try chain(["*", "/", "//", "%"]) { try $0.chain(["**"]) { try $0.unary(withFilters: true) } }
    }

    private mutating func chain(
        _ symbols: [String], _ operand: (inout Parser) throws -> Expression
    ) throws -> Expression {
        var left = try operand(&self)
        while case .symbol(let symbol) = peek(), symbols.contains(symbol), let operation = Arithmetic(rawValue: symbol) {
            _ = takeSymbol(symbol)
            left = .arithmetic(operation, left, try operand(&self))
        }
        return left
    }

    private mutating func unary(withFilters: Bool) throws -> Expression {
        var value: Expression
        if takeSymbol("-") {
            value = .negative(try nested { try $0.unary(withFilters: false) })
        } else if takeSymbol("+") {
            value = .positive(try nested { try $0.unary(withFilters: false) })
        } else {
            value = try primary()
        }
        value = try postfix(value)
        return withFilters ? try filtersAndTests(value) : value
    }

    private mutating func primary() throws -> Expression {
        switch try next() {
        case .name(let name): return named(name)
        case .text(var text):
            while case .text(let more) = peek() {
                text += more
                _ = try next()
            }
            return .literal(.text(text))
        case .integer(let value): return .literal(.integer(value))
        case .number(let value): return .literal(.number(value))
        case .symbol("("): return try parenthesized()
        case .symbol("["): return .list(try items(until: "]") { try $0.expression() })
        case .symbol("{"):
            return .dictionary(
                try items(until: "}") { parser in
                    let key = try parser.expression()
                    try parser.expect(.symbol(":"))
                    return (key, try parser.expression())
                })
        case let token: throw TemplateError("\(token) begins no expression")
        }
    }

    private func named(_ name: String) -> Expression {
        switch name {
        case "true", "True": .literal(.bool(true))
        case "false", "False": .literal(.bool(false))
        case "none", "None": .literal(.none)
        default: .name(name)
        }
    }

    private mutating func parenthesized() throws -> Expression {
        if takeSymbol(")") { return .tuple([]) }
        let inside = try tupleOrExpression()
        try expect(.symbol(")"))
        return inside
    }

    private mutating func items<Item>(until end: String, _ read: (inout Parser) throws -> Item) throws -> [Item] {
        var items: [Item] = []
        while !takeSymbol(end) {
            if !items.isEmpty {
                try expect(.symbol(","))
                if takeSymbol(end) { break }
            }
            items.append(try read(&self))
        }
        return items
    }

    private mutating func postfix(_ value: Expression) throws -> Expression {
        var value = value
        while true {
            if takeSymbol(".") {
                switch try next() {
                case .name(let name): value = .attribute(value, name)
                case .integer(let index): value = .item(value, .literal(.integer(index)))
                case let token: throw TemplateError("\(token) is no attribute")
                }
            } else if takeSymbol("[") {
                value = try subscripted(value)
            } else if takeSymbol("(") {
                value = .call(value, try arguments())
            } else {
                return value
            }
        }
    }

    private mutating func subscripted(_ value: Expression) throws -> Expression {
        let first = peek() == .symbol(":") ? nil : try expression()
        if takeSymbol("]"), let first { return .item(value, first) }
        try expect(.symbol(":"))
        func part(_ parser: inout Parser) throws -> Expression? {
            [.symbol(":"), .symbol("]")].contains(parser.peek()) ? nil : try parser.expression()
        }
        let end = try part(&self)
        let step = takeSymbol(":") ? try part(&self) : nil
        try expect(.symbol("]"))
        return .slice(value, from: first, to: end, step: step)
    }

    private mutating func arguments() throws -> Arguments {
        var arguments = Arguments()
        _ = try items(until: ")") { parser in
            if case .name(let name) = parser.peek(), parser.peek(1) == .symbol("=") {
                try parser.expect(.name(name))
                try parser.expect(.symbol("="))
                arguments.named.append((name, try parser.expression()))
            } else {
                arguments.positional.append(try parser.expression())
            }
        }
        return arguments
    }

    private mutating func filtersAndTests(_ value: Expression) throws -> Expression {
        var value = value
        while true {
            if takeSymbol("|") {
                let name = try name()
                guard let filter = Filter(rawValue: name) else { throw TemplateError("there is no filter '\(name)'") }
                value = .filter(filter, value, takeSymbol("(") ? try arguments() : Arguments())
            } else if takeName("is") {
                value = try test(of: value)
            } else if takeSymbol("(") {
                value = .call(value, try arguments())
            } else {
                return value
            }
        }
    }

    private mutating func test(of value: Expression) throws -> Expression {
        let isNegated = takeName("not")
        let name = try name()
        guard let test = Test(rawValue: name) else { throw TemplateError("there is no test '\(name)'") }
        let found = Expression.test(test, value, try testArguments())
        return isNegated ? .not(found) : found
    }

    /// A test takes its arguments in parentheses, or one without.
    private mutating func testArguments() throws -> Arguments {
        switch peek() {
        case .symbol("("):
            _ = takeSymbol("(")
            return try arguments()
        case .name(let name) where ["else", "or", "and", "is", "if"].contains(name): return Arguments()
        case .name, .text, .integer, .number, .symbol("["), .symbol("{"):
            let argument = try primary()
            return Arguments(positional: [try postfix(argument)])
        default: return Arguments()
        }
    }
}
