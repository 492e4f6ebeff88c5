package org.qwenedge.engine

import java.io.File
import java.io.IOException

/**
 * Remembers across the death of the process what the runtime was doing.
 *
 * A crash inside a native library, or a kill for memory, leaves no exception. So a note is written before and removed after;
 * a note that is still there at the next start tells what went wrong, and that this model should not load by itself.
 */
class CrashGuard(private val note: File, private val systemSays: () -> String? = { null }) {
    /** What was going on when the process died, and why where the system tells; null after a peaceful end. Asked once. */
    fun lastWords(): String? = try {
        val doing = note.readText()
        note.delete()
        listOfNotNull("the app ended while it was $doing", systemSays()).joinToString(": ")
    } catch (_: IOException) {
        null
    }

    /** Do something that may kill the process. */
    fun <T> watch(what: String, action: () -> T): T {
        note.writeText(what)
        try {
            return action()
        } finally {
            note.delete()
        }
    }
}
