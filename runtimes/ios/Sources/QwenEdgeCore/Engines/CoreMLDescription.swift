/// `coreml.json`, the model file of a Core ML artifact: how its packages are put together. Read as untrusted input, by the
/// rules of `runtimes/coreml_engines/description.schema.json`.
public struct CoreMLDescription: Equatable, Sendable {
    private static let format = 1
    private static let maxBytes = 4 * 1024 * 1024

    /// Packages in the order in which a token goes through them.
    public let packages: [String]
    public let prefillTokens: Int
    public let defaultLayout: String
    /// By name; the default layout first, then the others in the file's order.
    public let layouts: [(name: String, layout: FunctionLayout)]

    public init(of artifact: Artifact) throws {
        let file = artifact.manifest.modelFile
        let document: JSON
        do {
            document = try JSONReader.document(try artifact.read(file, atMost: Self.maxBytes))
        } catch let error as JSONError {
            throw EdgeError(.artifact, "\(file): not JSON: \(error); import the bundle again")
        }
        var fields = try Fields(document, of: file, kind: .artifact)
        guard try fields.integer("format", 0...1_000_000) == Self.format else {
            throw fields.refused("format", "another one than \(Self.format), which this app reads")
        }
        packages = try fields.list("packages", 1...256).map { try fields.checked($0, "packages", .name) }
        var tokens = try fields.fields("tokens")
        _ = try tokens.integer("decode", 1...1)
        prefillTokens = try tokens.integer("prefill", 1...65536)
        let preferred = try fields.text("default_layout", .name)
        defaultLayout = preferred
        var entries = try fields.fields("layouts")
        let found = try fields.entries("layouts").map { ($0.name, try FunctionLayout(of: &entries, $0.name)) }
        layouts = found.filter { $0.0 == preferred } + found.filter { $0.0 != preferred }
        guard found.contains(where: { $0.0 == preferred }) else {
            throw fields.refused("default_layout", "'\(preferred)' is none of \(found.map(\.0))")
        }
        for package in packages where !artifact.manifest.files.contains(where: { $0.path.hasPrefix("\(package)/") }) {
            throw fields.refused("packages", "'\(package)' is not among the artifact's files")
        }
    }

    public func layout(_ name: String) -> FunctionLayout? {
        layouts.first { $0.name == name }?.layout
    }

    public static func == (first: CoreMLDescription, second: CoreMLDescription) -> Bool {
        first.packages == second.packages && first.prefillTokens == second.prefillTokens
            && first.layouts.elementsEqual(second.layouts) { $0 == $1 }
    }
}

extension FunctionLayout {
    fileprivate init(of layouts: inout Fields, _ name: String) throws {
        var fields = try layouts.fields(name)
        var functions = try fields.fields("functions")
        decode = try functions.text("decode", .name)
        prefill = try functions.text("prefill", .name)
        try functions.done()
        states = try fields.list("states", 0...2048).indices.map { try State(of: &fields, at: $0) }
        guard Set(states.map(\.name)).count == states.count else { throw fields.refused("states", "one is listed twice") }
    }
}

extension FunctionLayout.State {
    fileprivate init(of layout: inout Fields, at index: Int) throws {
        var fields = try layout.item("states", index)
        name = try fields.text("name", .name)
        shape = try fields.integers("shape", 1...16_777_216, 1...5)
        dtype = try fields.choice("dtype")
        inputName = try fields.textOrNull("input_name", .name)
        outputName = try fields.textOrNull("output_name", .name)
        tokenAxis = try fields.integerIfGiven("token_axis", 0...4)
        guard (inputName == nil) == (outputName == nil) else {
            throw fields.refused("input_name", "needs output_name as well, or neither")
        }
        guard tokenAxis ?? 0 < shape.count, shape.reduce(dtype.bytes, *) <= 1 << 40 else {
            throw fields.refused("shape", "\(shape) is no shape of a state")
        }
    }
}
