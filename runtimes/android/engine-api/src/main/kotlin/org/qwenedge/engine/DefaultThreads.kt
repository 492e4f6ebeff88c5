package org.qwenedge.engine

import java.io.File
import java.io.IOException

private const val SLOW_CORE_RATIO = 0.7

/**
 * Threads for this device: its fast cores, one each.
 *
 * Decoding waits for memory and for the slowest thread, so the slow cores of a phone hurt. The kernel tells them apart by
 * capacity (`cpu_capacity`, ARM) or by clock; below [SLOW_CORE_RATIO] of the fastest a core holds the others up.
 */
fun defaultThreads(cpuRoot: File = File("/sys/devices/system/cpu")): Int {
    val speeds = (0..<Runtime.getRuntime().availableProcessors()).map { speed(cpuRoot.resolve("cpu$it")) }
    return speeds.count { it >= SLOW_CORE_RATIO * speeds.max() }
}

private fun speed(cpu: File): Int =
    listOf("cpu_capacity", "cpufreq/cpuinfo_max_freq").firstNotNullOfOrNull { read(cpu.resolve(it))?.toIntOrNull() }
        ?: 1

private fun read(place: File): String? = try {
    place.readText().trim()
} catch (_: IOException) {
    null
}
