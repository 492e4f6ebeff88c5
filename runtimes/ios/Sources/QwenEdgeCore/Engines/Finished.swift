import Dispatch

/// Wait for asynchronous work. Only for threads that may be kept waiting, as that of `ChatSession`.
package func finished<Value: Sendable>(_ work: @escaping @Sendable () async throws -> Value) throws -> Value {
    let done = DispatchSemaphore(value: 0)
    let box = Box<Value>()
    Task.detached {
        do {
            box.result = .success(try await work())
        } catch {
            box.result = .failure(error)
        }
        done.signal()
    }
    done.wait()
    return try box.result!.get()
}

/// Written by one thread before it signals another, which reads it then.
private final class Box<Value: Sendable>: @unchecked Sendable {
    var result: Result<Value, any Error>?
}
