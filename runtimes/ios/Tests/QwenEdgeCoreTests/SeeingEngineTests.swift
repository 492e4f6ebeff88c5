import QwenEdgeCore
import XCTest

/// A model of one package that writes down what it is given beside its tokens.
private final class LookingRunner: FunctionRunner {
    struct Call: Equatable {
        let function: String
        let rows: [Float]
        let features: [Float]
    }

    let name = "eyes"
    private(set) var calls: [Call] = []

    func inputNames(package: String, function: String) -> [String] {
        ["input_ids", "position", "position_ids", "image_features"] + (function == "prefill" ? ["length"] : [])
    }

    func tensor(_ values: [Int32], shape: [Int]) -> [Float] {
        XCTAssertEqual(values.count, shape.reduce(1, *))
        return values.map(Float.init)
    }

    func tensor(_ values: [Float], shape: [Int], for input: FunctionInput) -> [Float] {
        XCTAssertEqual(values.count, shape.reduce(1, *))
        XCTAssertEqual(input.name, "image_features")
        return values
    }

    func zeros(for state: FunctionLayout.State) -> [Float] { [] }
    func numbers(_ tensor: [Float], last count: Int) -> [Float] { tensor }
    func copyStates(filled: Int) -> Int { filled }
    func write(_ states: Int) {}
    func reset() { calls = [] }

    func call(package: String, function: String, inputs: [String: [Float]]) throws -> [String: [Float]] {
        calls.append(Call(function: function, rows: inputs["position_ids"]!, features: inputs["image_features"]!))
        return ["logits": [0, 1, 2]]
    }
}

final class SeeingEngineTests: XCTestCase {
    private let runner = LookingRunner()
    private var towers = 0

    func testPositionsAndFeaturesGoWithTheirTokens() throws {
        let engine = try make()
        let prompt = try Prompt([1, 2, 2, 2, 2, 1], [try engine.see(picture(8))], for: engine)
        _ = try engine.forward(prompt.cut(0..<4))
        _ = try engine.forward(prompt.cut(4..<6))
        _ = try engine.forward([1])
        XCTAssertEqual(
            runner.calls,
            [
                LookingRunner.Call(function: "prefill", rows: [0, 1, 1, 1, 0, 1, 1, 2, 0, 1, 2, 1], features: [0, 0, 1, 2, 3, 4, 5, 6]),
                LookingRunner.Call(function: "prefill", rows: [1, 3, 0, 0, 2, 3, 0, 0, 2, 3, 0, 0], features: [7, 8, 0, 0, 0, 0, 0, 0]),
                LookingRunner.Call(function: "decode", rows: [4, 4, 4], features: [0, 0]),
            ])
        XCTAssertEqual(engine.position, 7)
        XCTAssertEqual(engine.nextPosition, 5)
    }

    func testASnapshotBringsThePositionsBack() throws {
        let engine = try make()
        _ = try engine.forward(try Prompt([2, 2, 2, 2], [try engine.see(picture(8))], for: engine))
        let snapshot = try engine.snapshot()
        XCTAssertEqual(engine.nextPosition, 2)
        try engine.reset()
        XCTAssertEqual(engine.nextPosition, 0)
        try engine.restore(snapshot)
        XCTAssertEqual([engine.position, engine.nextPosition], [4, 2])
    }

    func testWhatTheTowerDoesNotTakeIsRefused() throws {
        let engine = try make()
        assertError(.image, "another grid") { _ = try engine.see(try self.picture(16)) }
        XCTAssertEqual(towers, 0)
        assertError(.image, "no image") { _ = try engine.forward([2]) }
        assertError(.engine, "too few features") { _ = try self.make(features: [1]).see(try self.picture(8)) }
        XCTAssertEqual(engine.position, 0)
    }

    func testTheSamePixelsHaveTheSameName() throws {
        let engine = try make()
        XCTAssertEqual(try engine.see(picture(8)).digest, try engine.see(picture(8)).digest)
        XCTAssertNotEqual(try engine.see(picture(8)).digest, try engine.see(picture(8, level: 3)).digest)
    }

    func testHalvesAreTheNearest() throws {
        #if !(os(macOS) && arch(x86_64))
            for bits in 0...UInt16.max where Float16(bitPattern: bits).isFinite {
                let value = Float(Float16(bitPattern: bits))
                XCTAssertEqual(Half.bits(of: value), bits)
                XCTAssertEqual(Half.value(of: bits), value)
                for near in [value * 1.0002, value * 1.0003, value.nextUp, (value + Float(Float16(bitPattern: bits).nextUp)) / 2] {
                    XCTAssertEqual(Half.bits(of: near), Float16(near).bitPattern, "\(near)")
                }
            }
        #endif
        XCTAssertEqual(Half.bits(of: .infinity), 0x7C00)
        XCTAssertEqual(Half.value(of: 0xFC00), -.infinity)
        XCTAssert(Half.value(of: 0x7C01).isNaN)
        XCTAssertEqual(Half.bits(of: .nan) & 0x7C00, 0x7C00)
    }

    /// Square, of one colour.
    private func picture(_ side: Int, level: UInt8 = 7) throws -> PatchedImage {
        let image = try Pixels(size: PixelSize(height: side, width: side), rgb: [UInt8](repeating: level, count: side * side * 3))
        return try PatchedImage(image, spec())
    }

    private func spec(_ grids: [TokenGrid] = []) -> ImageSpec {
        ImageSpec(
            patchSize: 2, temporalPatchSize: 1, mergeSize: 2, minPixels: 16, maxPixels: 256, mean: [0.5, 0.5, 0.5],
            std: [0.5, 0.5, 0.5], grids: grids)
    }

    private func make(features: [Float] = (1...8).map(Float.init)) throws -> SeeingFunctionEngine<LookingRunner> {
        let vision = VisionPart(
            towerFile: "tower", embeddingFile: "embedding", hiddenSize: 2, imageTokenId: 2, startTokenId: 0, endTokenId: 0,
            images: spec([TokenGrid(height: 2, width: 2)]))
        let text = try FunctionEngine(
            runner, packages: ["model"], layout: FunctionLayout(decode: "decode", prefill: "prefill", states: []),
            manifest: try smallManifest(contextLength: 16))
        return SeeingFunctionEngine(text, vision) { _ in
            self.towers += 1
            return features
        }
    }
}
