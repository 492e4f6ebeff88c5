import Foundation
import QwenEdgeCore
import XCTest

/// What can be wrong with files, each a clear message.
final class ArtifactTests: XCTestCase {
    private var scratch: Scratch!
    private var store: BundleStore!
    private var shared: URL { scratch.folder.appending(path: "Documents") }
    private var imported: URL { scratch.folder.appending(path: "Models") }

    override func setUpWithError() throws {
        scratch = try Scratch()
        try FileManager.default.createDirectory(at: imported, withIntermediateDirectories: true)
        store = BundleStore(imported: imported, shared: [shared], notes: scratch.folder.appending(path: "notes"))
    }

    func testAnArtifactThatAComputerCopiedIsListedAndVerifiedOnce() throws {
        try TinyArtifact.write(to: shared.appending(path: "bundle/coreml"))
        let entry = try XCTUnwrap(store.list().first)
        XCTAssertEqual(entry.name, "bundle/coreml")
        let artifact = try XCTUnwrap(entry.artifact)
        var shares: [Double] = []
        try store.verify(artifact) { shares.append($0) }
        XCTAssertEqual(shares.last, 1)
        try store.verify(artifact) { _ in XCTFail("verified twice") }
    }

    func testACorruptFileIsFoundByItsHash() throws {
        let place = try TinyArtifact.write(to: shared.appending(path: "tiny"))
        let artifact = try Artifact(at: place)
        try store.verify(artifact)
        try Data(repeating: 8, count: 3000).write(to: place.appending(path: "model.bin"))
        let message = assertError(.fileMismatch, "corrupt") { try store.verify(try Artifact(at: place)) }
        XCTAssert(message.contains("model.bin"), message)
    }

    func testAFileThatIsCutShortOrMissingIsFoundAtOnce() throws {
        let place = try TinyArtifact.write(to: shared.appending(path: "tiny"))
        try Data(repeating: 7, count: 2999).write(to: place.appending(path: "model.bin"))
        XCTAssert(assertError(.fileMismatch, "short") { _ = try Artifact(at: place) }.contains("2999"))
        try FileManager.default.removeItem(at: place.appending(path: "model.bin"))
        XCTAssert(assertError(.fileMismatch, "missing") { _ = try Artifact(at: place) }.contains("missing"))
        XCTAssertNil(store.list().first?.artifact)
        XCTAssertNotNil(store.list().first?.problem)
    }

    func testAnArtifactOfANewerVersionIsListedWithTheReason() throws {
        try TinyArtifact.write(to: shared.appending(path: "new")) { $0["schema_version"] = 7 }
        let problem = try XCTUnwrap(store.list().first?.problem)
        XCTAssert(problem.contains("newer version"), problem)
    }

    func testALinkThatLeadsOutsideIsRefused() throws {
        let place = try TinyArtifact.write(to: shared.appending(path: "tiny"))
        let outside = scratch.folder.appending(path: "secret")
        try Data(repeating: 7, count: 3000).write(to: outside)
        try FileManager.default.removeItem(at: place.appending(path: "model.bin"))
        try FileManager.default.createSymbolicLink(at: place.appending(path: "model.bin"), withDestinationURL: outside)
        assertError(.manifest, "link") { _ = try Artifact(at: place) }
    }

    func testAnImportIsCompleteOrInvisible() throws {
        let source = try TinyArtifact.write(to: scratch.folder.appending(path: "usb"))
        let entry = try XCTUnwrap(try store.importBundle(from: source).first)
        XCTAssertNotNil(entry.artifact)
        XCTAssertEqual(try store.importBundle(from: source).first?.name, entry.name)
        try store.delete(entry)
        try Data(repeating: 9, count: 3000).write(to: source.appending(path: "model.bin"))
        assertError(.fileMismatch, "wrong hash") { _ = try store.importBundle(from: source) }
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: imported.path), [])
    }

    func testABundleIsImportedWithItsOracle() throws {
        let bundle = scratch.folder.appending(path: "usb")
        try TinyArtifact.write(to: bundle.appending(path: "coreml"))
        try TinyArtifact.write(to: bundle.appending(path: "executorch")) { $0["backend"] = "executorch" }
        try Data("{}".utf8).write(to: bundle.appending(path: Oracle.fileName))
        try store.importBundle(from: bundle)
        XCTAssertEqual(store.list().count, 2)
        for entry in store.list() {
            XCTAssert(FileManager.default.fileExists(atPath: entry.directory.appending(path: Oracle.fileName).path))
        }
        assertError(.artifact, "no bundle") { try store.importBundle(from: self.scratch.folder.appending(path: "notes")) }
    }

    func testABundleIsInstalledWholeOrNotAtAll() throws {
        let bundle = try twoArtifacts()
        let model = bundle.appending(path: "executorch/model.bin")
        try Data(repeating: 9, count: 3000).write(to: model)
        assertError(.fileMismatch, "the second lies") { try store.importBundle(from: bundle) }
        try assertNothingInstalled()
        try Data(repeating: 7, count: 3000).write(to: model)
        var shares: [Double] = []
        XCTAssertEqual(try store.importBundle(from: bundle) { shares.append($0) }.compactMap(\.artifact).count, 2)
        XCTAssertEqual(shares, shares.sorted(), "one share of the whole bundle")
        XCTAssertEqual(shares.last, 1)
    }

    func testRoomIsLookedForBeforeTheFirstByteIsCopiedForAllArtifacts() throws {
        let system = try FileManager.default.attributesOfFileSystem(forPath: imported.path)
        let most = try XCTUnwrap(system[.systemFreeSize] as? NSNumber).intValue / 10 * 6
        let bundle = try twoArtifacts { manifest in
            var file = try XCTUnwrap(manifest["files"]?.array?.first?.object)
            file["bytes"] = .integer(most)
            manifest["files"] = .array([.object(file)] + (manifest["files"]?.array ?? []).dropFirst())
        }
        assertError(.noSpace, "each would fit alone") {
            try store.importBundle(from: bundle) { _ in XCTFail("copied before there was room for all") }
        }
        try assertNothingInstalled()
    }

    func testAnImportWhoseLastRenameFailsTakesBackWhatItHasInstalled() throws {
        let bundle = try twoArtifacts()
        let second = try XCTUnwrap(try store.importBundle(from: bundle).last).directory
        for entry in store.list() { try store.delete(entry) }
        let message = assertError(.artifact, "something lies in the way") {
            try store.importBundle(from: bundle) { _ in
                try FileManager.default.createDirectory(at: second, withIntermediateDirectories: true)
            }
        }
        XCTAssert(message.contains("nothing was installed"), message)
        try FileManager.default.removeItem(at: second)
        try assertNothingInstalled()
    }

    func testAnArtifactThatWasImportedAloneGetsTheOracleOfItsBundle() throws {
        let bundle = try twoArtifacts()
        let alone = try XCTUnwrap(try store.importBundle(from: bundle.appending(path: "coreml")).first).directory
        let oracle = bundle.appending(path: Oracle.fileName), copy = alone.appending(path: Oracle.fileName)
        XCTAssertFalse(FileManager.default.fileExists(atPath: copy.path))
        for text in ["{}", "{\"another\": 1}"] {
            try Data(text.utf8).write(to: oracle)
            XCTAssertEqual(try store.importBundle(from: bundle).count, 2)
            XCTAssertEqual(try String(contentsOf: copy, encoding: .utf8), text)
        }
        try FileManager.default.removeItem(at: oracle)
        try store.importBundle(from: bundle)
        XCTAssert(FileManager.default.fileExists(atPath: copy.path), "an import without one took it away")
    }

    func testAnOracleThatIsTooLongIsRefusedByName() throws {
        let bundle = try twoArtifacts()
        let oracle = bundle.appending(path: Oracle.fileName)
        try Data(repeating: 32, count: Oracle.maxBytes + 1).write(to: oracle)
        XCTAssert(assertError(.oracle, "import") { try store.importBundle(from: bundle) }.contains("oracle.json: "))
        try assertNothingInstalled()
        let artifact = try Artifact(at: bundle.appending(path: "coreml"))
        assertError(.oracle, "beside an artifact") { _ = try Oracle.find(for: artifact) }
        try FileManager.default.removeItem(at: oracle)
        XCTAssertNil(try Oracle.find(for: artifact))
    }

    func testAnImportThatIsCancelledLeavesNothing() throws {
        let source = try TinyArtifact.write(to: scratch.folder.appending(path: "usb"))
        XCTAssertThrowsError(try store.importBundle(from: source) { _ in throw CancellationError() })
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: imported.path), [])
    }

    func testAnImportThatDoesNotFitIsRefusedBeforeItBegins() throws {
        let source = try TinyArtifact.write(to: scratch.folder.appending(path: "usb")) { manifest in
            var file = try XCTUnwrap(manifest["files"]?.array?.first?.object)
            file["bytes"] = .integer(1 << 40)
            manifest["files"] = .array([.object(file)] + (manifest["files"]?.array ?? []).dropFirst())
        }
        XCTAssert(assertError(.noSpace, "full") { _ = try store.importBundle(from: source) }.contains("make room"))
    }

    func testWhatAKilledImportLeftIsRemoved() throws {
        try FileManager.default.createDirectory(
            at: imported.appending(path: ".partial-1234"), withIntermediateDirectories: true)
        XCTAssertEqual(store.list().count, 0)
        store.cleanUp()
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: imported.path), [])
    }

    // MARK: What the tests are made of

    private func twoArtifacts(change: (inout JSONObject) throws -> Void = { _ in }) throws -> URL {
        let bundle = scratch.folder.appending(path: "usb")
        try TinyArtifact.write(to: bundle.appending(path: "coreml"), change: change)
        try TinyArtifact.write(to: bundle.appending(path: "executorch")) { manifest in
            manifest["backend"] = "executorch"
            try change(&manifest)
        }
        return bundle
    }

    private func assertNothingInstalled() throws {
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: imported.path), [])
    }
}
