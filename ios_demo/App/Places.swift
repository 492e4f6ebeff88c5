import Foundation
import QwenEdgeCore
import QwenEdgeCoreAI
import QwenEdgeCoreML
import QwenEdgeExecuTorch

/// Where the app keeps things, and which runtimes it contains.
enum Places {
    /// What computers and people put there, seen in Finder and in the Files app.
    static let documents = URL.documentsDirectory

    /// Models and notes of our own, out of backups: a model can be fetched again.
    static let own: URL = {
        var folder = URL.applicationSupportDirectory.appending(path: "qwen-edge")
        try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try? folder.setResourceValues(values)
        return folder
    }()

    static func home() -> ChatHome {
        ChatHome(
            store: BundleStore(
                imported: own.appending(path: "models"), shared: [documents], notes: own.appending(path: "verified")),
            engines: engines(), crashGuard: CrashGuard(note: own.appending(path: "crash")),
            transcript: TranscriptFile(own.appending(path: "chat.json")))
    }

    static func engines() -> Engines {
        var factories: [any EngineFactory] = [CoreMLFactory(folder: own.appending(path: "coreml")), ExecuTorchFactory()]
        #if canImport(CoreAI)
            if #available(iOS 27, *) { factories.append(CoreAIFactory()) }
        #endif
        return Engines(factories)
    }
}
