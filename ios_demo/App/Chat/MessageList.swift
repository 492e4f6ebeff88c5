import QwenEdgeCore
import SwiftUI

/// What was said, and the answer in progress, always scrolled to its end.
struct MessageList: View {
    let view: ChatView

    var body: some View {
        ScrollView {
            LazyVStack(alignment: .leading, spacing: 12) {
                ForEach(Array(view.messages.enumerated()), id: \.offset) { _, message in
                    if message.role != .system { MessageRow(message: message) }
                }
                if let answer = view.answer { MessageRow(message: Message(.assistant, answer.isEmpty ? "…" : answer)) }
                if view.phase == .loading { LoadingRow(progress: view.progress) }
            }
            .padding()
        }
        .defaultScrollAnchor(.bottom)
    }
}

private struct MessageRow: View {
    let message: Message

    var body: some View {
        VStack(alignment: .leading) {
            if !message.images.isEmpty {
                Label("\(message.images.count)", systemImage: "photo").font(.caption).foregroundStyle(.secondary)
            }
            Text(message.content).textSelection(.enabled)
        }
            .padding(10)
            .background(message.role == .user ? Color.accentColor.opacity(0.15) : Color.secondary.opacity(0.1))
            .clipShape(RoundedRectangle(cornerRadius: 12))
            .frame(maxWidth: .infinity, alignment: message.role == .user ? .trailing : .leading)
    }
}

/// A first start checks every byte and lets Core ML compile, which takes minutes: it should show.
private struct LoadingRow: View {
    let progress: Double?

    var body: some View {
        if let progress {
            ProgressView("Checking the files", value: progress)
        } else {
            ProgressView("Opening; the first time Core ML compiles the model, which can take minutes")
        }
    }
}
