import Dispatch

/// A chat that any task may talk to: all work runs on one thread of its own, one thing after the other, since a call of a
/// model keeps a thread busy for long.
public actor ChatSession {
    private let chat: Chat
    private let cancellation: Cancellation
    private let executor = WorkerExecutor()

    public init(_ home: ChatHome, _ settings: ChatSettings, show: @escaping @Sendable (ChatView) -> Void) {
        let cancellation = Cancellation()
        self.cancellation = cancellation
        chat = Chat(home, settings, cancellation: cancellation, show: show)
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    /// Take up the chat of an earlier process, or say what killed it.
    public func resume() { chat.resume() }

    /// Choose a model and begin a new chat with it.
    public func choose(_ installed: Installed) { chat.choose(installed) }

    /// Add a message, with pictures where the model sees, and stream the answer.
    public func say(_ text: String, pictures: [any Picture] = []) { chat.say(text, pictures: pictures) }

    /// Drop the last answer and stream another one.
    public func regenerate() { chat.regenerate() }

    /// Replace the last message and stream an answer to the new one.
    public func editLast(_ text: String) { chat.editLast(text) }

    /// Forget what was said.
    public func newChat() { chat.newChat() }

    /// Give the model's memory back; the next message opens it again.
    public func sleep() { chat.sleep() }

    /// End the answer in progress; what is written stays.
    public nonisolated func stop() { cancellation.cancel() }
}

/// Runs an actor's work on a queue of its own.
final class WorkerExecutor: SerialExecutor {
    private let queue = DispatchQueue(label: "qwen-edge.chat", qos: .userInitiated)

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let executor = asUnownedSerialExecutor()
        queue.async { job.runSynchronously(on: executor) }
    }
}
