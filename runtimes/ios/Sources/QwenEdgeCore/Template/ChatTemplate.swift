import Foundation

/// A checkpoint's own chat template: jinja2 as far as chat templates use it, interpreted.
///
/// Templates differ between sizes of a model, so the app runs the one that came with the model instead of knowing any.
public struct ChatTemplate {
    private static let maxBytes = 1024 * 1024

    private let statements: [Statement]
    private let specialTokens: JSONObject

    /// Fails where the source does not compile. `specialTokens` are the names that the template may use, such as
    /// `bos_token`.
    public init(_ source: String, specialTokens: JSONObject = JSONObject()) throws {
        do {
            statements = try Parser.statements(of: source)
        } catch let error as TemplateError {
            throw EdgeError(.chatTemplate, "the chat template does not compile: \(error.problem)")
        }
        self.specialTokens = specialTokens
    }

    /// The text of a conversation; `options` are the template's own switches, such as `enable_thinking`.
    public func render(
        _ messages: [JSON], tools: [JSON]? = nil, options: JSONObject = JSONObject(), addGenerationPrompt: Bool = true
    ) throws -> String {
        let given: [(name: String, value: Value)] = [
            ("messages", Value(.array(messages))), ("tools", tools.map { Value(.array($0)) } ?? .none),
            ("add_generation_prompt", .bool(addGenerationPrompt)),
        ]
        let variables = specialTokens.fields.map { ($0.name, Value($0.value)) } + given
            + options.fields.map { ($0.name, Value($0.value)) }
        do {
            return try Interpreter.run(statements, variables)
        } catch let refusal as Refusal {
            throw EdgeError(.chatTemplate, "the chat template refuses this conversation: \(refusal.reason)")
        } catch let error as TemplateError {
            throw EdgeError(.chatTemplate, "the chat template failed: \(error.problem)")
        }
    }
}

extension ChatTemplate {
    /// The chat template of an artifact.
    public init(of artifact: Artifact) throws {
        guard let place = artifact.chatTemplateFile else {
            throw EdgeError(.chatTemplate, "\(artifact.name) has no chat template (a base model?); import another bundle")
        }
        let bytes = try artifact.read(place, atMost: Self.maxBytes)
        guard let source = String(validating: bytes, as: UTF8.self) else {
            throw EdgeError(.chatTemplate, "\(artifact.name): its chat template is not UTF-8; import the bundle again")
        }
        try self.init(source, specialTokens: try artifact.specialTokens())
    }
}
