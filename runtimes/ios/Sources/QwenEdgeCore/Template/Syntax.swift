/// What a template does, statement by statement.
indirect enum Statement {
    case output(Expression)
    case text(Text)
    case condition([(test: Expression, body: [Statement])], otherwise: [Statement])
    case loop(ForLoop)
    case assign(Target, Expression)
    case capture(String, [Statement])
    case macro(Macro)
    case body([Statement])
    case breakLoop
    case continueLoop
}

/// `{% for target in items if filter %} ... {% else %} ... {% endfor %}`
struct ForLoop {
    let targets: [String]
    let items: Expression
    let filter: Expression?
    let body: [Statement]
    let otherwise: [Statement]
}

/// What a value is given to: names, or the field of a namespace.
enum Target {
    case names([String])
    case field(namespace: String, name: String)
}

/// `{% macro name(parameters) %} ... {% endmacro %}`
final class Macro {
    let name: String
    let parameters: [(name: String, value: Expression?)]
    let body: [Statement]

    init(name: String, parameters: [(name: String, value: Expression?)], body: [Statement]) {
        self.name = name
        self.parameters = parameters
        self.body = body
    }
}

indirect enum Expression {
    case literal(Value)
    case name(String)
    case list([Expression])
    case tuple([Expression])
    case dictionary([(key: Expression, value: Expression)])
    case negative(Expression)
    case positive(Expression)
    case not(Expression)
    case and(Expression, Expression)
    case or(Expression, Expression)
    case arithmetic(Arithmetic, Expression, Expression)
    case comparison(Expression, [(Comparison, Expression)])
    case choice(test: Expression, then: Expression, otherwise: Expression?)
    case attribute(Expression, String)
    case item(Expression, Expression)
    case slice(Expression, from: Expression?, to: Expression?, step: Expression?)
    case call(Expression, Arguments)
    case filter(Filter, Expression, Arguments)
    case test(Test, Expression, Arguments)
}

/// What stands between the parentheses of a call.
struct Arguments {
    var positional: [Expression] = []
    var named: [(name: String, value: Expression)] = []
}

enum Arithmetic: String {
    case add = "+"
    case subtract = "-"
    case multiply = "*"
    case divide = "/"
    case divideToFloor = "//"
    case remainder = "%"
    case power = "**"
    case concatenate = "~"
}

enum Comparison: String {
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
    case isIn = "in"
    case isNotIn = "not in"
}
