// Signatures of Core AI as of iOS 27, as far as runtimes/ios calls it, so that Linux checks every call. Written from the use
// that apple/coreai-models (BSD-3-Clause, 2026) makes of it; nothing here computes. What the real compiler asks of lifetimes
// of views beyond what is said here is not checked.
import Foundation

public struct NDArrayDescriptor: Sendable {
    public var shape: [Int] { fatalError() }
    public func resolvingDynamicDimensions(_ shape: [Int]) -> NDArrayDescriptor { fatalError() }
}

public enum InferenceValueDescriptor: Sendable { case ndArray(NDArrayDescriptor) }

public struct NDArray: Sendable {
    public enum ScalarType: Sendable { case float16, bfloat16, float32, int32 }

    public init(descriptor: NDArrayDescriptor) { fatalError() }
    public init(shape: [Int], scalarType: ScalarType) { fatalError() }
    public var shape: [Int] { fatalError() }
    public var scalarType: ScalarType { fatalError() }
    public func rawView() -> RawView { fatalError() }
    public mutating func mutableRawView() -> MutableRawView { fatalError() }

    public struct RawView {
        public func withUnsafeBytes<R>(_ body: (UnsafeRawPointer, [Int], [Int]) throws -> R) rethrows -> R { fatalError() }
    }

    public struct MutableRawView {
        public func withUnsafeMutableBytes<R>(
            _ body: (UnsafeMutableRawPointer, [Int], [Int]) throws -> R
        ) rethrows -> R { fatalError() }
    }
}

public struct InferenceFunctionDescriptor: Sendable {
    public var inputNames: [String] { fatalError() }
    public var outputNames: [String] { fatalError() }
    public var stateNames: [String] { fatalError() }
    public func inputDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
    public func outputDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
    public func stateDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
}

public final class InferenceFunction: Sendable {
    public struct MutableViews: ~Copyable {
        public init() { fatalError() }
        public mutating func insert(_ array: inout NDArray, for name: String) { fatalError() }
    }

    public struct Outputs: ~Copyable {}

    public func run(
        inputs: [String: NDArray], states: consuming MutableViews, outputViews: consuming MutableViews
    ) async throws -> Outputs { fatalError() }
}

public final class AIModel: Sendable {
    public init(contentsOf url: URL) async throws { fatalError() }
    public var functionNames: [String] { fatalError() }
    public func functionDescriptor(for name: String) -> InferenceFunctionDescriptor? { fatalError() }
    public func loadFunction(named name: String) throws -> InferenceFunction? { fatalError() }
}
