package org.qwenedge.probe

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Debug
import java.io.File
import java.io.IOException
import org.qwenedge.engine.Counters

/**
 * What an app may read of its device, named as `benchmarks/counters.py` and `benchmarks/energy` name it.
 *
 * Files of /proc and /sys are read as they are; which of them an app sees differs from phone to phone. What is not there is
 * left out, never guessed.
 */
class DeviceCounters(private val context: Context) : Counters {
    private val battery = context.getSystemService(BatteryManager::class.java)

    override fun read(kind: String): Map<String, Map<String, Number>> = when (kind) {
        "memory" -> mapOf(STATUS to kernelLines(File(STATUS)), "Debug.getPss" to mapOf("Pss_kb" to Debug.getPss()))
        "thermal" -> mapOf(THERMAL to zoneTemperatures(), "ACTION_BATTERY_CHANGED" to batteryTemperature())
        "frequency" -> mapOf(CPUFREQ to clocks())
        "battery" -> mapOf("BatteryManager" to batteryState())
        else -> emptyMap()
    }.filterValues { it.isNotEmpty() }

    private fun kernelLines(place: File): Map<String, Number> = text(place).lineSequence()
        .mapNotNull(MEMORY_LINE::matchEntire)
        .associate { "${it.groupValues[1]}_kb" to it.groupValues[2].toLong() }

    private fun zoneTemperatures(): Map<String, Number> = numbers(File(THERMAL), "thermal_zone", "temp") { zone ->
        "${zone.removePrefix("thermal_")}_temp_millicelsius"
    }

    private fun clocks(): Map<String, Number> = numbers(File(CPUFREQ), "policy", "scaling_cur_freq") { "${it}_cur_khz" }

    private fun numbers(root: File, prefix: String, file: String, named: (String) -> String): Map<String, Number> =
        root.list { _, name -> name.startsWith(prefix) }.orEmpty().sorted()
            .mapNotNull { name -> text(root.resolve(name).resolve(file)).trim().toLongOrNull()?.let { named(name) to it } }.toMap()

    private fun batteryTemperature(): Map<String, Number> {
        val decicelsius = batteryIntent()?.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, MISSING) ?: MISSING
        return if (decicelsius == MISSING) emptyMap() else mapOf("battery_temp_millicelsius" to decicelsius * 100L)
    }

    private fun batteryState(): Map<String, Number> {
        val intent = batteryIntent()
        val properties = PROPERTIES.mapNotNull { (name, id) ->
            battery.getLongProperty(id).takeIf { it != Long.MIN_VALUE && it != Int.MIN_VALUE.toLong() }?.let { name to it }
        }
        val millivolt = intent?.getIntExtra(BatteryManager.EXTRA_VOLTAGE, MISSING) ?: MISSING
        val plugged = intent?.getIntExtra(BatteryManager.EXTRA_PLUGGED, MISSING) ?: MISSING
        return buildMap {
            putAll(properties)
            if (millivolt != MISSING) put("battery_voltage_uv", millivolt * 1000L)
            if (plugged != MISSING) put("plugged", plugged)
        }
    }

    /** The last broadcast of the battery, which stays: nobody is registered for it. */
    private fun batteryIntent(): Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))

    private fun text(place: File): String = try {
        place.readText()
    } catch (_: IOException) {
        ""
    }

    private companion object {
        const val STATUS = "/proc/self/status"
        const val THERMAL = "/sys/class/thermal"
        const val CPUFREQ = "/sys/devices/system/cpu/cpufreq"
        const val MISSING = Int.MIN_VALUE
        val MEMORY_LINE = Regex("(VmHWM|VmRSS|VmSwap|RssAnon|RssFile|RssShmem):\\s+([0-9]+) kB")
        val PROPERTIES = mapOf(
            "battery_current_ua" to BatteryManager.BATTERY_PROPERTY_CURRENT_NOW,
            "battery_charge_counter_uah" to BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER,
            "battery_capacity_percent" to BatteryManager.BATTERY_PROPERTY_CAPACITY,
        )
    }
}
