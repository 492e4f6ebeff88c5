/// Where a chat finds its models and keeps itself.
public struct ChatHome: Sendable {
    public let store: BundleStore
    public let engines: Engines
    public let crashGuard: CrashGuard
    public let transcript: TranscriptFile

    public init(store: BundleStore, engines: Engines, crashGuard: CrashGuard, transcript: TranscriptFile) {
        self.store = store
        self.engines = engines
        self.crashGuard = crashGuard
        self.transcript = transcript
    }
}
