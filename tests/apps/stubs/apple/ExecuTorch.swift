// Signatures of ExecuTorch's Swift module as of 1.5.0, as far as runtimes/ios calls it, so that Linux checks every call.
// Written from extension/apple/ExecuTorch of pytorch/executorch; nothing here computes.

public protocol Scalar {}
extension Float: Scalar {}
extension Int64: Scalar {}

public protocol ValueConvertible {}
public protocol ValueSequenceConstructible {}

public final class Tensor<T: Scalar>: ValueConvertible, ValueSequenceConstructible {
    public init(_ scalars: [T], shape: [Int] = []) { fatalError() }
    public var shape: [Int] { fatalError() }
    public func scalars() -> [T] { fatalError() }
}

public final class Module {
    public init(filePath: String) { fatalError() }
    public func load(_ method: String) throws { fatalError() }
    public func forward<Output: ValueSequenceConstructible>(_ inputs: [ValueConvertible]) throws -> Output { fatalError() }
}
