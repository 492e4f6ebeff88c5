package org.qwenedge.engine

import java.io.File
import java.io.IOException
import org.qwenedge.core.OracleException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.oracle.Oracle
import org.qwenedge.core.oracle.Report
import org.qwenedge.core.oracle.compare
import org.qwenedge.core.oracle.findOracle

/**
 * Asks a model the oracle of its bundle, once with each version of the system, of the app and of the runtime.
 *
 * The file was checked where it was made, but a phone's kernels are others: what they get wrong would pass for a bad model.
 * A model that answers wrong is refused, and not opened again until [system] or [app], the versions of both, change: another
 * version of the app may judge otherwise.
 */
class SelfCheck(private val notes: File, private val system: String, private val app: String) {
    /** Refuse a model that was found wrong here before its weights are read. */
    fun refuseKnown(artifact: Artifact, runtime: String) {
        val found = verdict(note(artifact, runtime)) ?: return
        if (found != RIGHT) throw wrong(artifact, found)
    }

    /** Ask an open model, unless that was done; the sequence is empty afterwards. False where there is nothing to ask. */
    fun ask(artifact: Artifact, engine: Engine, runtime: String): Boolean {
        val note = note(artifact, runtime)
        if (verdict(note) != null) return true
        val oracle = findOracle(artifact) ?: return false
        val problem = oracle.ask(engine).problem
        remember(note, problem ?: RIGHT)
        if (problem != null) throw wrong(artifact, problem)
        return true
    }

    /** What was found; null where nobody asked, or where the note cannot be read. */
    private fun verdict(note: File): String? = try {
        note.takeIf(File::isFile)?.readText()?.ifBlank { null }
    } catch (_: IOException) {
        null
    }

    /** A note appears with all of its text: half of one would be taken for a problem. Without room for it, the model is asked again. */
    private fun remember(note: File, verdict: String) {
        val partial = note.resolveSibling("${note.name}$PARTIAL")
        try {
            notes.mkdirs()
            partial.outputStream().use { out ->
                out.write(verdict.toByteArray())
                out.fd.sync()
            }
            if (!partial.renameTo(note)) partial.delete()
        } catch (_: IOException) {
            partial.delete()
        }
    }

    private fun note(artifact: Artifact, runtime: String): File =
        notes.resolve("${artifact.manifest.sha256}-${"$runtime-$system-$app".replace(ODD, "_")}")

    private fun wrong(artifact: Artifact, problem: String) =
        OracleException("${artifact.manifest.model} gives wrong answers on this device ($problem); use another model")

    private companion object {
        const val RIGHT = "right"
        const val PARTIAL = ".partial"
        val ODD = Regex("[^A-Za-z0-9._+-]")
    }
}

/**
 * Quantized answers may be so many times as far from the oracle's as its tolerance says. KleidiAI, which computes 4-bit products
 * on ARM, rounds their inputs otherwise than the exporting machine: 1.8 times the tolerance on the tiny model (docs/log.md).
 */
const val KERNEL_ALLOWANCE = 4.0

/** Feed the oracle's tokens to an engine, which is empty before and after, and compare. */
internal fun Oracle.ask(engine: Engine): Report {
    engine.reset()
    val answers = HashMap<Int, FloatArray>()
    answers[prefillTokens - 1] = Generator(engine).prefill(tokens.take(prefillTokens))
    for (place in prefillTokens..(expected.maxOf { it.position })) answers[place] = engine.forward(intArrayOf(tokens[place]))
    engine.reset()
    return compare(answers, KERNEL_ALLOWANCE)
}
