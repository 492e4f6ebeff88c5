import Synchronization

/// Whether somebody wants a generation to end; set by any thread, asked by the model's before each call.
public final class Cancellation: Sendable {
    private let flag = Atomic<Bool>(false)

    public init() {}

    public var isCancelled: Bool { flag.load(ordering: .relaxed) }

    public func cancel() { flag.store(true, ordering: .relaxed) }

    /// Forget an earlier wish, before something new begins.
    public func clear() { flag.store(false, ordering: .relaxed) }
}
