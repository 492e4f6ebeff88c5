package org.qwenedge.probe

import android.content.Context
import android.os.PowerManager

/** Keeps the processor awake while a benchmark runs; it ends by itself after [limitMs]. */
class AwakeLock(context: Context, private val limitMs: Long) {
    private val lock = context.getSystemService(PowerManager::class.java)
        .newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "qwen-edge:benchmark")

    fun <T> whileAwake(action: () -> T): T {
        lock.acquire(limitMs)
        try {
            return action()
        } finally {
            if (lock.isHeld) lock.release()
        }
    }
}
