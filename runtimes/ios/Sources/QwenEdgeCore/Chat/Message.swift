/// One message of a conversation, its images before its text.
public struct Message: Equatable, Sendable {
    public enum Role: String, Sendable { case system, user, assistant }

    public let role: Role
    public let content: String
    public let images: [SeenImage]

    public init(_ role: Role, _ content: String, images: [SeenImage] = []) {
        self.role = role
        self.content = content
        self.images = images
    }

    /// The message as a chat template reads it.
    var json: JSON {
        if images.isEmpty { return ["role": .string(role.rawValue), "content": .string(content)] }
        let items: [JSON] = images.map { _ in ["type": "image"] } + [["type": "text", "text": .string(content)]]
        return ["role": .string(role.rawValue), "content": .array(items)]
    }

    /// Images are the same where their pixels are.
    public static func == (first: Message, second: Message) -> Bool {
        first.role == second.role && first.content == second.content
            && first.images.map(\.digest) == second.images.map(\.digest)
    }
}
