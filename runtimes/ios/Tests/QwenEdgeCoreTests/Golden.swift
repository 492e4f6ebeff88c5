import Foundation
import QwenEdgeCore
import XCTest

/// The vectors that Python, Kotlin and Swift share (`tests/golden/README.md`).
enum Golden {
    /// The repository's root: five folders up, or what the environment says where the package is a copy.
    static let root: URL = {
        if let given = ProcessInfo.processInfo.environment["QWEN_EDGE_ROOT"] { return URL(filePath: given) }
        return (0..<5).reduce(URL(filePath: #filePath)) { place, _ in place.deletingLastPathComponent() }
    }()

    static func place(_ path: String) -> URL { root.appending(path: path) }

    static func bytes(_ name: String) throws -> [UInt8] {
        Array(try Data(contentsOf: place("tests/golden/\(name)")))
    }

    static func read(_ name: String) throws -> JSONObject {
        try XCTUnwrap(try JSONReader.document(try bytes(name)).object)
    }

    static func cases(_ file: JSONObject, _ name: String = "cases") throws -> [JSONObject] {
        try XCTUnwrap(file[name]?.array).map { try XCTUnwrap($0.object) }
    }
}

extension JSONObject {
    func text(_ name: String) throws -> String { try XCTUnwrap(self[name]?.string, name) }
    func integer(_ name: String) throws -> Int { try XCTUnwrap(self[name]?.integer, name) }
    func list(_ name: String) throws -> [JSON] { try XCTUnwrap(self[name]?.array, name) }
    func integers(_ name: String) throws -> [Int] { try list(name).map { try XCTUnwrap($0.integer, name) } }
    func doubles(_ name: String) throws -> [Double] { try list(name).map { try XCTUnwrap($0.double, name) } }
    func texts(_ name: String) throws -> [String] { try list(name).map { try XCTUnwrap($0.string, name) } }
}

/// Texts are the same where their bytes are; Swift's own `==` takes different spellings of a character for equal.
func assertSame(_ found: String, _ wanted: String, _ what: String, file: StaticString = #filePath, line: UInt = #line) {
    if !found.utf8.elementsEqual(wanted.utf8) {
        XCTFail("\(what): found \(found.debugDescription), expected \(wanted.debugDescription)", file: file, line: line)
    }
}

/// An error of this kind comes, and is returned.
@discardableResult
func assertError(
    _ kind: EdgeError.Kind, _ what: String, file: StaticString = #filePath, line: UInt = #line, _ work: () throws -> Void
) -> String {
    do {
        try work()
        XCTFail("\(what): no error", file: file, line: line)
    } catch let error as EdgeError {
        XCTAssertEqual(error.kind, kind, "\(what): \(error.message)", file: file, line: line)
        return error.message
    } catch {
        XCTFail("\(what): \(error)", file: file, line: line)
    }
    return ""
}
