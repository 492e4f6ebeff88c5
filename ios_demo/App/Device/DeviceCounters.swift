import Foundation
import QwenEdgeCore

/// The counters of the device that the benchmark writes down.
struct DeviceCounters: Counters {
    func read(_ kind: SampleKind) -> [(source: String, values: JSONObject)] {
        switch kind {
        case .memory: memory()
        case .thermal: thermal()
        case .cpu, .battery, .frequency: []  // iOS tells an app nothing that is worth writing down
        }
    }

    private func memory() -> [(source: String, values: JSONObject)] {
        var values: JSONObject = ["available_bytes": .integer(MemoryCounter.availableBytes)]
        values["phys_footprint_bytes"] = MemoryCounter.footprintBytes.map(JSON.integer)
        return [("task_vm_info", values)]
    }

    private func thermal() -> [(source: String, values: JSONObject)] {
        let process = ProcessInfo.processInfo
        return [
            (
                "ProcessInfo",
                [
                    "thermal_state": .integer(process.thermalState.rawValue),
                    "low_power_mode": .integer(process.isLowPowerModeEnabled ? 1 : 0),
                ]
            )
        ]
    }
}
