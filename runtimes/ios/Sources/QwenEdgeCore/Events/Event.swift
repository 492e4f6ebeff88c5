/// What happened and when: raw facts, of which the device lab computes every figure. A run never measures itself.
public enum Event: Equatable, Sendable {
    case caseStart(name: String, kind: CaseKind)
    case caseEnd(name: String)
    case loadStart
    case loadEnd
    case submit(promptTokens: Int)
    case prefillStart(position: Int, tokens: Int)
    case prefillEnd(position: Int, tokens: Int)
    case token(index: Int, token: Int)
    case stop(reason: StopReason, tokens: Int)
    case sample(kind: SampleKind, source: String, values: JSONObject)
    case marker(name: String)
    case error(what: String)
}

public enum CaseKind: String, Sendable { case cold, warm, sustained }
public enum SampleKind: String, Sendable { case memory, thermal, frequency, battery, cpu }

/// An event with the device's monotonic clock in nanoseconds.
public struct TimedEvent: Equatable, Sendable {
    public let event: Event
    public let atNanoseconds: Int

    public init(_ event: Event, atNanoseconds: Int = monotonicNanoseconds()) {
        self.event = event
        self.atNanoseconds = atNanoseconds
    }
}

/// Takes events as they happen.
public typealias EventSink = (TimedEvent) -> Void

/// Nanoseconds since the app began to look, by a clock that goes on while the device sleeps; only differences mean
/// something.
public func monotonicNanoseconds() -> Int {
    let passed = clockStart.duration(to: .now).components
    return Int(passed.seconds) * 1_000_000_000 + Int(passed.attoseconds / 1_000_000_000)
}

private let clockStart = ContinuousClock.now

extension TimedEvent {
    /// The event as the device lab writes it.
    public var json: JSON {
        let (name, fields) = event.nameAndFields
        return .object(
            JSONObject(
                fields: [
                    JSONObject.Field(name: "at_ns", value: .integer(atNanoseconds)),
                    JSONObject.Field(name: "event", value: .string(name)),
                ] + fields.fields))
    }
}

extension Event {
    fileprivate var nameAndFields: (String, JSONObject) {
        switch self {
        case .caseStart(let name, let kind): ("case_start", ["case": .string(name), "kind": .string(kind.rawValue)])
        case .caseEnd(let name): ("case_end", ["case": .string(name)])
        case .loadStart: ("load_start", [:])
        case .loadEnd: ("load_end", [:])
        case .submit(let tokens): ("submit", ["prompt_tokens": .integer(tokens)])
        case .prefillStart(let position, let tokens):
            ("prefill_start", ["position": .integer(position), "tokens": .integer(tokens)])
        case .prefillEnd(let position, let tokens):
            ("prefill_end", ["position": .integer(position), "tokens": .integer(tokens)])
        case .token(let index, let token): ("token", ["index": .integer(index), "token": .integer(token)])
        case .stop(let reason, let tokens): ("stop", ["reason": .string(reason.rawValue), "tokens": .integer(tokens)])
        case .sample(let kind, let source, let values):
            ("sample", ["kind": .string(kind.rawValue), "source": .string(source), "values": .object(values)])
        case .marker(let name): ("marker", ["name": .string(name)])
        case .error(let what): ("error", ["what": .string(what)])
        }
    }
}
