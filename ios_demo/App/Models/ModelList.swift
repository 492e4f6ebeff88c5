import QwenEdgeCore
import SwiftUI
import UniformTypeIdentifiers

/// The models on this device, and a way to bring more.
struct ModelList: View {
    @Bindable var model: AppModel
    @Environment(\.dismiss) private var dismiss
    @State private var isImporting = false

    var body: some View {
        NavigationStack {
            List {
                ForEach(model.installed) { entry in
                    Button { choose(entry) } label: { ModelRow(entry: entry) }
                        .disabled(entry.artifact == nil)
                        .swipeActions { Button("Delete", role: .destructive) { model.delete(entry) } }
                }
                if let progress = model.importProgress { ProgressView("Copying and checking", value: progress) }
            }
            .overlay { if model.installed.isEmpty { NoModels() } }
            .navigationTitle("Models")
            .toolbar { Button("Import", systemImage: "folder.badge.plus") { isImporting = true } }
            .fileImporter(isPresented: $isImporting, allowedContentTypes: [.folder]) { result in
                if case .success(let folder) = result { model.importFolder(folder) }
            }
            .alert("That did not work", isPresented: hasProblem) {
            } message: {
                Text(model.importProblem ?? "")
            }
            .onAppear(perform: model.refresh)
        }
    }

    private var hasProblem: Binding<Bool> {
        Binding(get: { model.importProblem != nil }, set: { if !$0 { model.importProblem = nil } })
    }

    private func choose(_ entry: Installed) {
        model.choose(entry)
        dismiss()
    }
}

private struct ModelRow: View {
    let entry: Installed

    var body: some View {
        VStack(alignment: .leading) {
            Text(entry.name)
            Group {
                if let manifest = entry.artifact?.manifest {
                    Text("\(manifest.scheme), \(manifest.runtime.name), \(manifest.totalBytes.formatted(.byteCount(style: .file)))")
                    if manifest.weights == .random { Text("random weights: for measuring only") }
                } else {
                    Text(entry.problem ?? "").foregroundStyle(.red)
                }
            }
            .font(.caption)
        }
    }
}

private struct NoModels: View {
    var body: some View {
        ContentUnavailableView(
            "No model yet", systemImage: "shippingbox",
            description: Text("Copy a bundle into this app's folder with Finder, or import a folder."))
    }
}
