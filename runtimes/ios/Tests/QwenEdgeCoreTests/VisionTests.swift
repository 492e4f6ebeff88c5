import Foundation
import QwenEdgeCore
import XCTest

final class VisionTests: XCTestCase {
    func testSizesAfterResizingAreThoseOfPython() throws {
        let golden = try Golden.read("images.json")
        let family = try XCTUnwrap(golden["family"]?.object)
        let spec = try spec(family)
        let grids = try golden.list("fixed_grids").map { try XCTUnwrap($0.array).compactMap(\.integer) }
        let fixed = try self.spec(family, grids.map { TokenGrid(height: $0[0], width: $0[1]) })
        for (spec, name) in [(spec, "sizes"), (fixed, "fixed_sizes")] {
            for entry in try golden.list(name) {
                let sizes = try XCTUnwrap(entry.array).map { try XCTUnwrap($0.integer) }
                let found = try spec.targetSize(of: PixelSize(height: sizes[0], width: sizes[1]))
                XCTAssertEqual(found, PixelSize(height: sizes[2], width: sizes[3]), "\(name) \(sizes)")
            }
        }
        for entry in try golden.list("refused_sizes") {
            let sizes = try XCTUnwrap(entry.array).map { try XCTUnwrap($0.integer) }
            assertError(.image, "\(sizes)") {
                _ = try spec.targetSize(of: PixelSize(height: sizes[0], width: sizes[1]))
            }
        }
    }

    func testPixelsAndPatchesAreThoseOfPython() throws {
        let golden = try Golden.read("images.json")
        let spec = try spec(try XCTUnwrap(golden["small"]?.object))
        for entry in try Golden.cases(golden, "images") {
            let name = try entry.text("name")
            let image = try Pixels(size: try size(entry, ""), rgb: try bytes(entry, "rgb"))
            let resized = try image.resized(to: try size(entry, "resized_"))
            XCTAssertEqual(resized.rgb, try bytes(entry, "resized_rgb"), name)
            let found = try PatchedImage(image, spec)
            XCTAssertEqual([found.height, found.width], try entry.integers("grid"), name)
            for (patch, wanted) in zip(found.patches, try entry.list("patches")) {
                let values = try XCTUnwrap(wanted.array).map { Float(try XCTUnwrap($0.double)) }
                XCTAssertEqual(patch, values, name)
            }
        }
    }

    func testPositionsAroundImagesAreThoseOfPython() throws {
        let golden = try Golden.read("image_positions.json")
        for entry in try Golden.cases(golden) {
            let found = try positions(entry), name = try entry.text("name")
            let rows = try entry.list("rows").map { try XCTUnwrap($0.array).map { try XCTUnwrap($0.integer) } }
            XCTAssertEqual([found.time, found.height, found.width], rows, name)
            XCTAssertEqual(found.next, try entry.integer("next"), name)
        }
        for entry in try Golden.cases(golden, "refused") {
            assertError(.image, try entry.text("name")) { _ = try positions(entry) }
        }
    }

    private func positions(_ entry: JSONObject) throws -> TokenPositions {
        let grids = try entry.list("grids").map { grid in
            let sides = try XCTUnwrap(grid.array).map { try XCTUnwrap($0.integer) }
            return TokenGrid(height: sides[0], width: sides[1])
        }
        return try TokenPositions(
            of: try entry.integers("tokens"), imageTokenId: try entry.integer("image_token_id"), grids: grids,
            start: try entry.integer("start"))
    }

    private func spec(_ golden: JSONObject, _ grids: [TokenGrid] = []) throws -> ImageSpec {
        ImageSpec(
            patchSize: try golden.integer("patch_size"), temporalPatchSize: try golden.integer("temporal_patch_size"),
            mergeSize: try golden.integer("merge_size"), minPixels: try golden.integer("min_pixels"),
            maxPixels: try golden.integer("max_pixels"), mean: try golden.doubles("mean"), std: try golden.doubles("std"), grids: grids)
    }

    private func size(_ entry: JSONObject, _ prefix: String) throws -> PixelSize {
        PixelSize(height: try entry.integer("\(prefix)height"), width: try entry.integer("\(prefix)width"))
    }

    private func bytes(_ entry: JSONObject, _ name: String) throws -> [UInt8] {
        Array(try XCTUnwrap(Data(base64Encoded: try entry.text(name))))
    }
}
