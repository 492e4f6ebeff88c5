import SwiftUI
import UIKit

/// The system's camera screen; hands over what it takes.
struct Camera: UIViewControllerRepresentable {
    let onPicture: (ImageFile) -> Void
    @Environment(\.dismiss) private var dismiss

    static var isThere: Bool { UIImagePickerController.isSourceTypeAvailable(.camera) }

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let controller = UIImagePickerController()
        controller.sourceType = .camera
        controller.delegate = context.coordinator
        return controller
    }

    func updateUIViewController(_ controller: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(self) }

    final class Coordinator: NSObject, UIImagePickerControllerDelegate, UINavigationControllerDelegate {
        private static let quality = 0.95
        private let camera: Camera

        init(_ camera: Camera) { self.camera = camera }

        func imagePickerController(
            _ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            let taken = (info[.originalImage] as? UIImage)?.jpegData(compressionQuality: Self.quality)
            if let taken { camera.onPicture(ImageFile(data: taken)) }
            camera.dismiss()
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) { camera.dismiss() }
    }
}
