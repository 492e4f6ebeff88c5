import Foundation

/// A chat as it survives the death of the process: which model, and what was said.
public struct Transcript: Equatable, Sendable {
    public let model: String
    public let messages: [Message]

    public init(model: String, messages: [Message]) {
        self.model = model
        self.messages = messages
    }
}

/// Where the current chat is kept.
public struct TranscriptFile: Sendable {
    private let place: URL

    public init(_ place: URL) {
        self.place = place
    }

    /// Replace what is kept; whoever reads sees the old or the new chat, never half of one.
    public func save(_ transcript: Transcript) throws {
        // images are not kept: their texts are
        let messages = transcript.messages.map { Message($0.role, $0.content).json }
        let content: JSON = ["model": .string(transcript.model), "messages": .array(messages)]
        try Data(JSONWriter().write(content).utf8).write(to: place, options: .atomic)
    }

    /// The chat that was kept; nil where there is none, or where it cannot be read.
    public func read() -> Transcript? {
        guard let data = try? Data(contentsOf: place), let kept = try? JSONReader.document(Array(data)).object,
            let model = kept["model"]?.string, let messages = kept["messages"]?.array
        else { return nil }
        return Transcript(model: model, messages: messages.compactMap(message))
    }

    private func message(_ kept: JSON) -> Message? {
        guard let role = kept.object?["role"]?.string.flatMap(Message.Role.init), let content = kept.object?["content"]?.string
        else { return nil }
        return Message(role, content)
    }
}
