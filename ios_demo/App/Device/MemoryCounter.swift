@preconcurrency import Darwin  // `mach_task_self_` is a variable to Swift, though nobody changes it
import os

/// Memory as iOS counts it before it kills.
enum MemoryCounter {
    /// `phys_footprint`: what the limit of the process is held against. What the Neural Engine maps is not in it.
    static var footprintBytes: Int? {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let result = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return result == KERN_SUCCESS ? Int(info.phys_footprint) : nil
    }

    /// What the process may still take; falls as other processes, the Neural Engine's among them, take memory.
    static var availableBytes: Int { os_proc_available_memory() }
}
