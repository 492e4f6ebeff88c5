/// One message of a conversation.
public struct Message: Equatable, Sendable {
    public enum Role: String, Sendable { case system, user, assistant }

    public let role: Role
    public let content: String

    public init(_ role: Role, _ content: String) {
        self.role = role
        self.content = content
    }

    /// The message as a chat template reads it.
    var json: JSON { ["role": .string(role.rawValue), "content": .string(content)] }
}
