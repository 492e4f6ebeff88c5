import QwenEdgeCore
import SwiftUI

/// The field to write in; pictures where the model sees; send, stop, and another answer.
struct Composer: View {
    let model: AppModel
    @State private var text = ""
    @State private var pictures: [ImageFile] = []

    var body: some View {
        HStack(alignment: .bottom) {
            if model.view.canSee {
                PictureButton(pictures: $pictures) { model.pictureProblem = $0 }
            }
            TextField(prompt, text: $text, axis: .vertical)
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

    private var prompt: String {
        pictures.isEmpty ? "Message" : "Message, with \(pictures.count) picture\(pictures.count == 1 ? "" : "s")"
    }

    private func send() {
        model.pictureProblem = nil
        model.say(text, pictures)
        text = ""
        pictures = []
    }
}
