/// Reads the statements of a template; expressions are in `Parser+Expressions.swift`.
struct Parser {
    /// Deeper nesting is no template, and would run out of stack.
    private static let deepest = 40

    private let tokens: [Token]
    private(set) var at = 0
    private var depth = 0

    private init(_ tokens: [Token]) {
        self.tokens = tokens
    }

    static func statements(of source: String) throws -> [Statement] {
        var parser = Parser(try Lexer.tokens(of: source))
        let (body, end) = try parser.statements(until: [])
        if let end { throw TemplateError("'\(end)' ends nothing") }
        return body
    }

    // MARK: Tokens

    func peek(_ ahead: Int = 0) -> Token? {
        at + ahead < tokens.count ? tokens[at + ahead] : nil
    }

    mutating func next() throws -> Token {
        guard let token = peek() else { throw TemplateError("the template ends too early") }
        at += 1
        return token
    }

    /// Takes the next token if it is this one.
    mutating func take(_ token: Token) -> Bool {
        guard peek() == token else { return false }
        at += 1
        return true
    }

    mutating func takeSymbol(_ symbol: String) -> Bool { take(.symbol(symbol)) }
    mutating func takeName(_ name: String) -> Bool { take(.name(name)) }

    mutating func expect(_ token: Token) throws {
        let found = try next()
        if found != token { throw TemplateError("expected \(token), found \(found)") }
    }

    mutating func name() throws -> String {
        guard case .name(let name) = try next() else { throw TemplateError("a name is missing") }
        return name
    }

    mutating func nested<Result>(_ read: (inout Parser) throws -> Result) throws -> Result {
        depth += 1
        defer { depth -= 1 }
        if depth > Self.deepest { throw TemplateError("nested deeper than \(Self.deepest)") }
        return try read(&self)
    }

    // MARK: Statements

    /// Statements up to one of these words, which is taken and returned.
    private mutating func statements(until ends: Set<String>) throws -> (body: [Statement], end: String?) {
        var body: [Statement] = []
        while let token = peek() {
            at += 1
            switch token {
            case .data(let text): body.append(.text(text))
            case .printStart:
                body.append(.output(try tupleOrExpression()))
                try expect(.printEnd)
            case .blockStart:
                let word = try name()
                if ends.contains(word) { return (body, word) }
                body.append(try nested { try $0.statement(word) })
            default: throw TemplateError("\(token) has no meaning here")
            }
        }
        if let end = ends.sorted().first { throw TemplateError("'\(end)' is missing") }
        return (body, nil)
    }

    /// Statements up to `{% end... %}`, which is taken whole.
    private mutating func body(until end: String) throws -> [Statement] {
        let (body, _) = try statements(until: [end])
        try expect(.blockEnd)
        return body
    }

    private mutating func statement(_ word: String) throws -> Statement {
        switch word {
        case "if": return try condition()
        case "for": return try forLoop()
        case "set": return try assignment()
        case "macro": return try macro()
        case "generation":
            try expect(.blockEnd)
            return .body(try body(until: "endgeneration"))
        case "break":
            try expect(.blockEnd)
            return .breakLoop
        case "continue":
            try expect(.blockEnd)
            return .continueLoop
        default: throw TemplateError("'\(word)' has no meaning here")
        }
    }

    private mutating func condition() throws -> Statement {
        var branches: [(test: Expression, body: [Statement])] = []
        while true {
            let test = try expression()
            try expect(.blockEnd)
            let (body, end) = try statements(until: ["elif", "else", "endif"])
            branches.append((test, body))
            if end == "elif" { continue }
            try expect(.blockEnd)
            return .condition(branches, otherwise: end == "else" ? try self.body(until: "endif") : [])
        }
    }

    private mutating func forLoop() throws -> Statement {
        let targets = try names()
        guard takeName("in") else { throw TemplateError("'in' is missing in 'for'") }
        let items = try tupleOrExpression(withChoice: false)
        let filter = takeName("if") ? try expression() : nil
        try expect(.blockEnd)
        let (body, end) = try statements(until: ["else", "endfor"])
        try expect(.blockEnd)
        let otherwise = end == "else" ? try self.body(until: "endfor") : []
        return .loop(ForLoop(targets: targets, items: items, filter: filter, body: body, otherwise: otherwise))
    }

    private mutating func names() throws -> [String] {
        let isParenthesized = takeSymbol("(")
        var names = [try name()]
        while takeSymbol(",") { names.append(try name()) }
        if isParenthesized { try expect(.symbol(")")) }
        return names
    }

    private mutating func assignment() throws -> Statement {
        let names = try names()
        if names.count == 1, takeSymbol(".") {
            let field = try name()
            try expect(.symbol("="))
            return try assigned(to: .field(namespace: names[0], name: field))
        }
        if takeSymbol("=") { return try assigned(to: .names(names)) }
        guard names.count == 1 else { throw TemplateError("'=' is missing in 'set'") }
        try expect(.blockEnd)
        return .capture(names[0], try body(until: "endset"))
    }

    private mutating func assigned(to target: Target) throws -> Statement {
        let value = try tupleOrExpression()
        try expect(.blockEnd)
        return .assign(target, value)
    }

    private mutating func macro() throws -> Statement {
        let name = try name()
        try expect(.symbol("("))
        var parameters: [(name: String, value: Expression?)] = []
        while !takeSymbol(")") {
            if !parameters.isEmpty { try expect(.symbol(",")) }
            let parameter = try self.name()
            parameters.append((parameter, takeSymbol("=") ? try expression() : nil))
        }
        try expect(.blockEnd)
        return .macro(Macro(name: name, parameters: parameters, body: try body(until: "endmacro")))
    }
}
