import SwiftUI

@main
struct QwenEdgeApp: App {
    @State private var model = AppModel()

    var body: some Scene {
        WindowGroup {
            if let benchmark = model.benchmark {
                BenchmarkScreen(run: benchmark)
            } else {
                ChatScreen(model: model)
                    .task { await model.start() }
                    .onOpenURL { model.open($0) }
            }
        }
    }
}
