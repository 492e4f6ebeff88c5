import Foundation
import QwenEdgeCore
import XCTest

final class ChatTemplateTests: XCTestCase {
    func testConversationsAreRenderedAsInPython() throws {
        let golden = try Golden.read("templates.json")
        let source = try String(contentsOf: Golden.place(try golden.text("template_file")), encoding: .utf8)
        let template = try ChatTemplate(source)
        for entry in try Golden.cases(golden) { try check(entry, { template }, try entry.text("name")) }
    }

    func testTheTemplateLanguageIsJinjas() throws {
        for entry in try Golden.cases(try Golden.read("templates.json"), "language") {
            let source = try entry.text("source")
            try check(entry, { try ChatTemplate(source) }, source)
        }
    }

    func testATemplateCannotRunForEverOrFillTheMemory() {
        let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        let numbers = "{% set n = range(99999) %}{% for a in n %}{% for b in n %}{% endfor %}{% endfor %}"
        let ranges = "{% for a in range(99999) %}{% set b = range(99999) %}{% endfor %}"
        let filtered = "{% set n = range(99999) %}{% for a in n %}{% for b in n if false %}{% endfor %}{% endfor %}"
        let wide = "{% for a in range(-9000000000000000000, 9000000000000000000) %}{% endfor %}"
        for source in [loops, numbers, ranges, filtered, wide, "{{ 'x' * 999999999 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"] {
            assertError(.chatTemplate, source) { _ = try ChatTemplate(source).render([]) }
        }
        let nested = String(repeating: "(", count: 5000) + "1" + String(repeating: ")", count: 5000)
        for source in ["{{ \(nested) }}", String(repeating: "{% if 1 %}", count: 5000)] {
            assertError(.chatTemplate, "nested") { _ = try ChatTemplate(source) }
        }
    }

    private func check(_ entry: JSONObject, _ template: () throws -> ChatTemplate, _ name: String) throws {
        func render() throws -> String {
            try template().render(
                try entry.list("messages"), tools: entry["tools"]?.array, options: try XCTUnwrap(entry["options"]?.object),
                addGenerationPrompt: try XCTUnwrap(entry["add_generation_prompt"]?.bool))
        }
        if let wanted = entry["text"]?.string {
            do {
                assertSame(try render(), wanted, name)
            } catch {
                XCTFail("\(name): \(error)")
            }
            return
        }
        let message = assertError(.chatTemplate, name) { _ = try render() }
        if let reason = entry["refused"]?.string { XCTAssert(message.hasSuffix(reason), "\(name): \(message)") }
    }
}
