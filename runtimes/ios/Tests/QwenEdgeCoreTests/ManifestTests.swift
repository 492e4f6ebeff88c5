import Foundation
import QwenEdgeCore
import XCTest

final class ManifestTests: XCTestCase {
    func testEveryManifestIsAcceptedOrRefusedAsInPython() throws {
        for entry in try Golden.cases(try Golden.read("manifests.json")) {
            let name = try entry.text("name"), bytes = try bytes(of: entry), names = try entry.text("names")
            switch try entry.text("expect") {
            case "ok": XCTAssertNoThrow(try readManifest(bytes), name)
            case "newer":
                let message = assertError(.newerManifest, name) { _ = try readManifest(bytes) }
                XCTAssert(message.contains(names), "\(name): \(message)")
            default:
                let message = assertError(.manifest, name) { _ = try readManifest(bytes) }
                XCTAssert(names.isEmpty || message.contains(names), "\(name): \(message)")
            }
        }
    }

    func testTheHashThatNamesAnArtifactIsPythons() throws {
        let wanted = try Golden.read("manifests.json").text("artifact_hash")
        XCTAssertEqual(try readManifest(try Golden.bytes("manifest.json")).sha256, wanted)
    }

    func testWhatAManifestSaysArrives() throws {
        let manifest = try readManifest(try Golden.bytes("manifest.json"))
        XCTAssertEqual(manifest.model, "qwen3.5-0.8b")
        XCTAssertEqual(manifest.runtime.name, "onnxruntime")
        XCTAssertEqual(manifest.runtime.oldestVersion, "1.31")
        XCTAssertEqual(manifest.state.map(\.tokenAxis), [nil, nil, 2, 2])
        XCTAssertEqual(manifest.files.count, 7)
        XCTAssertEqual(manifest.modalities, [.text])
    }

    private func bytes(of entry: JSONObject) throws -> [UInt8] {
        if let text = entry["text"]?.string { return Array(text.utf8) }
        if let encoded = entry["base64"]?.string { return Array(try XCTUnwrap(Data(base64Encoded: encoded))) }
        let count = try XCTUnwrap(Int(try entry.text("times")))
        return Array(String(repeating: try entry.text("repeat"), count: count).utf8)
    }
}
