import Foundation
import Observation

/// Memory and heat, as a screen shows them.
@MainActor
@Observable
final class DeviceState {
    private(set) var footprintBytes = 0
    private(set) var thermalState = ProcessInfo.ThermalState.nominal

    var thermalName: String {
        switch thermalState {
        case .nominal: "cool"
        case .fair: "warm"
        case .serious: "hot"
        case .critical: "too hot"
        @unknown default: "heat unknown"
        }
    }

    /// Look once a second for as long as somebody watches.
    func follow() async {
        while !Task.isCancelled {
            footprintBytes = MemoryCounter.footprintBytes ?? 0
            thermalState = ProcessInfo.processInfo.thermalState
            try? await Task.sleep(for: .seconds(1))
        }
    }
}
