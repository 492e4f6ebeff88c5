package org.qwenedge.probe

import android.app.ActivityManager
import android.app.ApplicationExitInfo
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager

/** How the device is doing, for a line on the screen. */
data class Health(val memoryMb: Long, val availableMb: Long, val temperatureC: Double?, val thermal: String)

/** Looks at memory, temperature and how earlier processes ended. */
class DeviceHealth(private val context: Context) {
    private val activities = context.getSystemService(ActivityManager::class.java)
    private val power = context.getSystemService(PowerManager::class.java)

    /** Takes milliseconds: reading PSS walks all pages. */
    fun look(): Health {
        val memory = ActivityManager.MemoryInfo().also(activities::getMemoryInfo)
        return Health(
            memoryMb = Debug.getPss() / KB_PER_MB,
            availableMb = memory.availMem / BYTES_PER_MB,
            temperatureC = batteryTemperatureC(),
            thermal = thermalStatus(),
        )
    }

    /** Why the last process of this app ended, where the system tells (from Android 11 on). */
    fun lastExit(): String? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return null
        val last = activities.getHistoricalProcessExitReasons(context.packageName, 0, 1).firstOrNull() ?: return null
        return EXITS[last.reason]
    }

    private fun thermalStatus(): String = THERMAL.getOrElse(power.currentThermalStatus) { "unknown" }

    private fun batteryTemperatureC(): Double? {
        val intent = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED)) ?: return null
        return intent.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE).takeIf { it != Int.MIN_VALUE }?.div(10.0)
    }

    private companion object {
        const val KB_PER_MB = 1024L
        const val BYTES_PER_MB = 1024L * 1024
        val THERMAL = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
        val EXITS = mapOf(
            ApplicationExitInfo.REASON_LOW_MEMORY to "the system killed the app for its memory",
            ApplicationExitInfo.REASON_CRASH_NATIVE to "the app crashed in native code",
            ApplicationExitInfo.REASON_CRASH to "the app crashed",
            ApplicationExitInfo.REASON_ANR to "the app did not answer in time",
        )
    }
}
