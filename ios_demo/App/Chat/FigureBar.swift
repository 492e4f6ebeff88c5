import QwenEdgeCore
import SwiftUI

/// Live figures of the answer and of the device.
struct FigureBar: View {
    let figures: Figures
    let device: DeviceState

    var body: some View {
        Text(parts.joined(separator: " · "))
            .font(.caption.monospacedDigit())
            .foregroundStyle(.secondary)
            .frame(maxWidth: .infinity)
            .padding(4)
    }

    private var parts: [String] {
        [
            figures.tokensPerSecond.map { "\($0.formatted(.number.precision(.fractionLength(1)))) tok/s" },
            figures.promptTokensPerSecond.map { "prompt \($0.formatted(.number.precision(.fractionLength(0)))) tok/s" },
            figures.timeToFirstTokenMs.map { "first after \($0.formatted(.number.precision(.fractionLength(0)))) ms" },
            figures.contextLength > 0 ? "\(figures.position) of \(figures.contextLength)" : nil,
            "\(device.footprintBytes.formatted(.byteCount(style: .memory)))",
            device.thermalName,
        ].compactMap { $0 }
    }
}
