package org.qwenedge.engine

import java.io.Closeable
import org.qwenedge.core.EngineException
import org.qwenedge.core.artifact.Artifact

/**
 * One sequence in one runtime: [forward] appends tokens to it and answers with the logits after the last one.
 *
 * An engine is used by one thread at a time. After a call that failed only [reset], [restore] and [close] may follow.
 */
interface Engine : Closeable {
    /** Tokens the sequence may hold. */
    val contextLength: Int

    /** Length of the logits. */
    val vocabSize: Int

    /** Tokens that one call of the model takes at most. */
    val prefillChunk: Int

    /** Threads the runtime was told to use. */
    val threads: Int

    /** Tokens in the sequence so far. */
    val position: Int

    /** Append one to [prefillChunk] tokens; the logits after the last one are the caller's own. */
    fun forward(tokens: IntArray): FloatArray

    /** Forget the sequence. */
    fun reset()

    /** Remember the sequence so far. */
    fun snapshot(): Snapshot

    /** Go back to a sequence that was remembered by this engine. */
    fun restore(snapshot: Snapshot)

    /** Give the model's memory back; the engine is of no further use. */
    override fun close()
}

/** The state of an engine at one position; it stays good until it is dropped, whatever the engine does meanwhile. */
interface Snapshot {
    val position: Int
}

/** Opens the artifacts of one runtime. */
interface EngineFactory {
    /** The runtime's name in a manifest. */
    val runtime: String

    /** The version of the runtime in this app. */
    val version: String

    fun open(artifact: Artifact, threads: Int): Engine
}

/** The runtimes that an app contains. */
class Engines(private val factories: List<EngineFactory>) {
    /** Open an artifact in the runtime that its manifest names. */
    fun open(artifact: Artifact, threads: Int = defaultThreads()): Engine = factoryOf(artifact).open(artifact, threads)

    /** The factory for an artifact, once its runtime is known to be there and new enough. */
    fun factoryOf(artifact: Artifact): EngineFactory {
        val wanted = artifact.manifest.runtime
        val factory = factories.find { it.runtime == wanted.name }
            ?: throw EngineException("${artifact.manifest.model} runs on ${wanted.name}; this app has ${factories.map { it.runtime }}")
        if (compareVersions(factory.version, wanted.oldestVersion) < 0) {
            throw EngineException(
                "${artifact.manifest.model} needs ${wanted.name} ${wanted.oldestVersion} or newer, " +
                    "this app has ${factory.version}; update the app",
            )
        }
        return factory
    }
}

/** Two versions by their leading numbers: 1.31.1+cpu is newer than 1.31, and 1.31 as new as 1.31.0. */
internal fun compareVersions(first: String, second: String): Int {
    val left = numbers(first)
    val right = numbers(second)
    val places = 0..<maxOf(left.size, right.size)
    return places.map { left.getOrElse(it) { 0 }.compareTo(right.getOrElse(it) { 0 }) }.find { it != 0 } ?: 0
}

private fun numbers(version: String): List<Int> {
    val parts = version.substringBefore('+').split('.')
    return parts.map { it.takeWhile(Char::isDigit) }.takeWhile { it.isNotEmpty() }.map(String::toInt)
}
