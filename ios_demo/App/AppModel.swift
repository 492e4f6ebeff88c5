import Foundation
import Observation
import QwenEdgeCore
import UIKit

/// What the screens show and do. Models and chats are the package's business; this hands their news to SwiftUI.
@MainActor
@Observable
final class AppModel {
    private(set) var view = ChatView()
    private(set) var installed: [Installed] = []
    private(set) var importProgress: Double?
    private(set) var benchmark: BenchmarkRun?
    var importProblem: String?
    /// What went wrong while pictures were chosen.
    var pictureProblem: String?
    let device = DeviceState()

    private let home: ChatHome
    private let session: ChatSession
    private let views: AsyncStream<ChatView>

    init() {
        let (views, news) = AsyncStream.makeStream(of: ChatView.self, bufferingPolicy: .bufferingNewest(1))
        self.views = views
        home = Places.home()
        session = ChatSession(home, ChatSettings()) { news.yield($0) }
        benchmark = BenchmarkRun(arguments: Array(CommandLine.arguments.dropFirst()), engines: home.engines)
    }

    /// Follow the chat for as long as the screen is there.
    func start() async {
        home.store.cleanUp()
        refresh()
        await session.resume()
        async let warnings: Void = followMemoryWarnings()
        async let state: Void = device.follow()
        for await view in views { self.view = view }
        _ = await (warnings, state)
    }

    func refresh() { installed = home.store.list() }

    func choose(_ entry: Installed) { Task { await session.choose(entry) } }
    func say(_ text: String, _ pictures: [ImageFile]) { Task { await session.say(text, pictures: pictures) } }
    func regenerate() { Task { await session.regenerate() } }
    func newChat() { Task { await session.newChat() } }
    func stop() { session.stop() }

    func delete(_ entry: Installed) {
        do {
            try home.store.delete(entry)
        } catch {
            importProblem = error.localizedDescription
        }
        refresh()
    }

    /// Copy a folder that the person chose; everything in it is checked.
    func importFolder(_ folder: URL) {
        importProgress = 0
        Task {
            do {
                try await Importer.copy(folder, into: home.store) { share in
                    Task { @MainActor in self.importProgress = share }
                }
            } catch {
                importProblem = error.localizedDescription
            }
            importProgress = nil
            refresh()
        }
    }

    /// `qwenedge://benchmark?artifact=...&cases=...&out=...`, with paths below Documents.
    func open(_ url: URL) {
        guard url.scheme == "qwenedge", url.host() == "benchmark" else { return }
        let items = URLComponents(url: url, resolvingAgainstBaseURL: false)?.queryItems ?? []
        let words = items.flatMap { item in ["--" + item.name, item.value ?? ""] }
        benchmark = BenchmarkRun(arguments: words, engines: home.engines)
    }

    /// iOS asks once before it kills: the model goes, the chat stays.
    private func followMemoryWarnings() async {
        let warnings = NotificationCenter.default.notifications(named: UIApplication.didReceiveMemoryWarningNotification)
        for await _ in warnings.map({ _ in true }) { await session.sleep() }
    }
}
