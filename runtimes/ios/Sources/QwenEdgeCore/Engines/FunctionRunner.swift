/// Runs the functions of a model whose state the caller or the runtime keeps: Core ML's packages, a Core AI asset.
///
/// A runner knows packages, functions and states, and nothing of tokens; `FunctionEngine` knows those.
public protocol FunctionRunner: AnyObject {
    /// What flows between functions; a runner never changes one that it gave out.
    associatedtype Tensor: Sendable
    /// A copy of the states that the runtime keeps.
    associatedtype States: Sendable

    /// What computes.
    var name: String { get }

    /// The inputs of one function, states left out.
    func inputNames(package: String, function: String) throws -> [String]

    /// Whole numbers as int32.
    func tensor(_ values: [Int32], shape: [Int]) throws -> Tensor

    /// Numbers for an input, in the element type that it wants.
    func tensor(_ values: [Float], shape: [Int], for input: FunctionInput) throws -> Tensor

    /// Zeros for a state that goes in and out of each call.
    func zeros(for state: FunctionLayout.State) throws -> Tensor

    /// The outputs of one function; the states that the runtime keeps are read and written.
    func call(package: String, function: String, inputs: [String: Tensor]) throws -> [String: Tensor]

    /// The last `count` numbers of a tensor.
    func numbers(_ tensor: Tensor, last count: Int) throws -> [Float]

    /// A copy of the states, of which `filled` places are in use.
    func copyStates(filled: Int) throws -> States

    func write(_ states: States) throws

    /// Zero every state.
    func reset() throws
}

/// One input of one function.
public struct FunctionInput: Sendable {
    public let package: String
    public let function: String
    public let name: String
}

/// Which functions decode and prefill, and where state lives.
public struct FunctionLayout: Equatable, Sendable {
    /// A state as the functions see it; without names of an input and an output the runtime keeps it.
    public struct State: Equatable, Sendable {
        public let name: String
        public let shape: [Int]
        public let dtype: StateTensor.ElementType
        public let inputName: String?
        public let outputName: String?
        /// The axis with one entry a token.
        public let tokenAxis: Int?

        public init(
            name: String, shape: [Int], dtype: StateTensor.ElementType, inputName: String?, outputName: String?,
            tokenAxis: Int?
        ) {
            self.name = name
            self.shape = shape
            self.dtype = dtype
            self.inputName = inputName
            self.outputName = outputName
            self.tokenAxis = tokenAxis
        }
    }

    public let decode: String
    public let prefill: String
    public let states: [State]

    public init(decode: String, prefill: String, states: [State]) {
        self.decode = decode
        self.prefill = prefill
        self.states = states
    }

    /// The states that go in and out of each call.
    var carried: [State] { states.filter { $0.inputName != nil } }
}
