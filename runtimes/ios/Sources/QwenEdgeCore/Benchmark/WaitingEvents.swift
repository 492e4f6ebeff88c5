import Foundation
import Synchronization

/// Events that wait in memory while something is timed; the thread that samples adds to them, too.
final class WaitingEvents: Sendable {
    private let events = Mutex<[TimedEvent]>([])

    func append(_ event: TimedEvent) {
        events.withLock { $0.append(event) }
    }

    func sample(_ kinds: [SampleKind], _ counters: any Counters) {
        for kind in kinds {
            for (source, values) in counters.read(kind) {
                append(TimedEvent(.sample(kind: kind, source: source, values: values)))
            }
        }
    }

    /// All events in the order of time, which wait no longer.
    func take() -> [TimedEvent] {
        let taken = events.withLock { waiting in
            defer { waiting = [] }
            return waiting
        }
        return taken.sorted { $0.atNanoseconds < $1.atNanoseconds }
    }
}

/// Samples every so many milliseconds, on a thread of its own, until it is ended.
final class PeriodicSamples: Sendable {
    private let cancellation = Cancellation()
    private let ended = DispatchSemaphore(value: 0)

    init(everyMs intervalMs: Int, _ kinds: [SampleKind], _ counters: any Counters, into events: WaitingEvents) {
        Thread.detachNewThread { [cancellation, ended] in
            while !cancellation.isCancelled {
                events.sample(kinds, counters)
                Thread.sleep(forTimeInterval: Double(intervalMs) / 1000)
            }
            ended.signal()
        }
    }

    /// No sample comes after this.
    func end() {
        cancellation.cancel()
        ended.wait()
    }
}
