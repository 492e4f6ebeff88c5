#if canImport(CoreAI)
    import CoreAI

    /// One call of a function: what goes in, and the states that it updates.
    @available(iOS 27, macOS 27, *)
    final class Call: @unchecked Sendable {
        private let function: InferenceFunction
        private let inputs: [String: NDArray]
        private(set) var states: [String: NDArray]

        init(function: InferenceFunction, inputs: [String: NDArray], states: [String: NDArray]) {
            self.function = function
            self.inputs = inputs
            self.states = states
        }

        /// An output, written into the array given.
        func run(_ array: NDArray, as name: String) async throws -> NDArray {
            var output = array
            var views = InferenceFunction.MutableViews()
            views.insert(&output, for: name)
            try await run(states.keys.sorted()[...], InferenceFunction.MutableViews(), consume views)
            return output
        }

        /// A view may not outlive the array that it shows, so each state is a variable of one more nested call.
        private func run(
            _ names: ArraySlice<String>, _ stateViews: consuming InferenceFunction.MutableViews,
            _ outputViews: consuming InferenceFunction.MutableViews
        ) async throws {
            guard let name = names.first, var state = states.removeValue(forKey: name) else {
                _ = try await function.run(inputs: inputs, states: consume stateViews, outputViews: consume outputViews)
                return
            }
            defer { states[name] = state }
            stateViews.insert(&state, for: name)
            try await run(names.dropFirst(), consume stateViews, consume outputViews)
        }
    }
#endif
