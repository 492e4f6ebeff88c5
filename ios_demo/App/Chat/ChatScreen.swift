import QwenEdgeCore
import SwiftUI

/// The chat: messages, the field to write in, and what the device says.
struct ChatScreen: View {
    let model: AppModel
    @State private var isChoosing = false

    var body: some View {
        NavigationStack {
            VStack(spacing: 0) {
                MessageList(view: model.view)
                if let notice = model.pictureProblem ?? model.view.notice { NoticeBar(text: notice) }
                FigureBar(figures: model.view.figures, device: model.device)
                Composer(model: model)
            }
            .navigationTitle(model.view.model ?? "No model")
            .navigationBarTitleDisplayMode(.inline)
            .toolbar {
                Button("Models", systemImage: "shippingbox") { isChoosing = true }
                Button("New chat", systemImage: "square.and.pencil", action: model.newChat)
                    .disabled(model.view.messages.isEmpty)
            }
            .sheet(isPresented: $isChoosing) { ModelList(model: model) }
        }
    }
}

/// What went wrong last.
private struct NoticeBar: View {
    let text: String

    var body: some View {
        Label(text, systemImage: "exclamationmark.triangle")
            .font(.callout)
            .frame(maxWidth: .infinity, alignment: .leading)
            .padding(8)
            .background(.yellow.opacity(0.2))
    }
}
