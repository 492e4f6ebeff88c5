import QwenEdgeCore
import SwiftUI

/// The field to write in; send, stop, and another answer.
struct Composer: View {
    let model: AppModel
    @State private var text = ""

    var body: some View {
        HStack(alignment: .bottom) {
            TextField("Message", text: $text, axis: .vertical)
                .lineLimit(1...6)
                .textFieldStyle(.roundedBorder)
            if model.view.phase == .answering {
                Button("Stop", systemImage: "stop.circle.fill", action: model.stop)
            } else {
                Button("Another answer", systemImage: "arrow.clockwise", action: model.regenerate)
                    .disabled(!canSpeak || !model.view.messages.contains { $0.role == .user })
                Button("Send", systemImage: "arrow.up.circle.fill", action: send)
                    .disabled(!canSpeak || text.isEmpty)
            }
        }
        .labelStyle(.iconOnly)
        .font(.title2)
        .padding()
    }

    private var canSpeak: Bool {
        model.view.phase == .ready || model.view.phase == .asleep
    }

    private func send() {
        model.say(text)
        text = ""
    }
}
