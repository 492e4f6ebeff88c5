import PhotosUI
import SwiftUI

/// Chooses pictures for the next message. The photo library's picker runs outside the app, so it needs no permission.
struct PictureButton: View {
    @Binding var pictures: [ImageFile]
    let onProblem: (String) -> Void
    @State private var chosen: [PhotosPickerItem] = []
    @State private var isChoosing = false
    @State private var isTaking = false

    var body: some View {
        Menu("Picture", systemImage: "photo.badge.plus") {
            Button("Photo library", systemImage: "photo.on.rectangle") { isChoosing = true }
            if Camera.isThere { Button("Camera", systemImage: "camera") { isTaking = true } }
            if !pictures.isEmpty { Button("Remove pictures", systemImage: "trash", role: .destructive) { pictures = [] } }
        }
        .photosPicker(isPresented: $isChoosing, selection: $chosen, matching: .images)
        .onChange(of: chosen) { read() }
        .fullScreenCover(isPresented: $isTaking) {
            Camera { pictures.append($0) }.ignoresSafeArea()
        }
    }

    private func read() {
        let items = chosen
        chosen = []
        Task {
            for item in items {
                if let data = try? await item.loadTransferable(type: Data.self) {
                    pictures.append(ImageFile(data: data))
                } else {
                    onProblem("a picture could not be read; choose another one")
                }
            }
        }
    }
}
