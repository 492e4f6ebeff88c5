package org.qwenedge.engine

import java.io.OutputStream
import org.qwenedge.core.QwenEdgeException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.events.Event
import org.qwenedge.core.events.EventStream
import org.qwenedge.core.events.RunSettings
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.tokenizer.Tokenizer
import org.qwenedge.core.tokenizer.readTokenizer

/** What the counters of a device say: for each source its values, whose names end with their units. */
fun interface Counters {
    fun read(kind: String): Map<String, Map<String, Number>>
}

/**
 * Runs the device lab's cases and writes its event stream, as `benchmarks/host_runner.py` does on a computer.
 *
 * Nothing is written while anything is timed: events wait in memory until a generation has ended. An app cannot drop files
 * from the page cache, so a cold case says nothing of what was cached, and the lab gives it no cold load time.
 */
class BenchmarkRunner(
    private val artifact: Artifact,
    private val engines: Engines,
    private val counters: Counters,
    private val clock: () -> Long = System::nanoTime,
) {
    private val waiting = ArrayList<Event>()

    /** Run all cases; an error becomes a line of the stream, which is sealed after it. */
    fun run(file: CaseFile, out: OutputStream, onLine: (String) -> Unit = {}) {
        val threads = file.threads ?: defaultThreads()
        val stream = EventStream(out, onLine)
        stream.write(start(file.threads, threads))
        try {
            val tokenizer = readTokenizer(artifact.tokenizerFile)
            for (case in file.cases) runCase(case, threads, tokenizer, stream)
        } catch (error: QwenEdgeException) {
            emit(Event.Failure(clock(), "${error.javaClass.simpleName}: ${error.message}"))
        } catch (error: OutOfMemoryError) {
            emit(Event.Failure(clock(), "OutOfMemoryError: ${error.message}"))
        }
        flush(stream)
        stream.end()
    }

    private fun start(asked: Int?, threads: Int): Event.Start {
        val manifest = artifact.manifest
        return Event.Start(
            atNs = clock(),
            runner = RUNNER,
            runtime = "${manifest.runtime.name} ${engines.factoryOf(artifact).version}",
            requested = RunSettings(manifest.backend, asked),
            effective = RunSettings(manifest.backend, threads, details = mapOf("tokenizer" to TOKENIZER)),
        )
    }

    private fun runCase(case: Case, threads: Int, tokenizer: Tokenizer, stream: EventStream) {
        emit(Event.CaseStart(clock(), case.name, case.kind))
        sample(listOf("memory"))
        val sampler = case.sampleIntervalMs?.let { startSampling(it, case.samples) }
        try {
            idle(case)
            emit(Event.LoadStart(clock()))
            engines.open(artifact, threads).use { engine ->
                emit(Event.LoadEnd(clock()))
                flush(stream)
                warmUp(case, engine)
                repeat(case, engine, tokenizer, stream)
            }
        } finally {
            sampler?.run { interrupt().also { join() } }
        }
        sample(listOf("memory", "thermal"))
        emit(Event.CaseEnd(clock(), case.name))
        flush(stream)
    }

    private fun idle(case: Case) {
        if (case.idleMs == null) return
        emit(Event.Marker(clock(), "idle_start"))
        Thread.sleep(case.idleMs)
        emit(Event.Marker(clock(), "idle_end"))
    }

    private fun warmUp(case: Case, engine: Engine) {
        if (case.warmUps == 0) return
        emit(Event.Marker(clock(), "warm_up_start"))
        repeat(case.warmUps) {
            engine.reset()
            BenchmarkGeneration(engine, clock) { }.run(case.prompt, case.newTokens)
        }
        emit(Event.Marker(clock(), "warm_up_end"))
    }

    private fun repeat(case: Case, engine: Engine, tokenizer: Tokenizer, stream: EventStream) {
        val endNs = case.durationMs?.let { clock() + it * NS_PER_MS }
        var done = 0
        while (if (endNs == null) done < case.repeats else done == 0 || clock() < endNs) {
            engine.reset()
            val submittedNs = clock()
            val prompt = case.text?.let(tokenizer::encode) ?: case.prompt
            emit(Event.Submit(submittedNs, prompt.size))
            BenchmarkGeneration(engine, clock, ::emit).run(prompt, case.newTokens)
            flush(stream)
            done++
        }
    }

    private fun startSampling(intervalMs: Long, kinds: List<String>) = kotlin.concurrent.thread(name = "samples") {
        try {
            while (true) {
                sample(kinds)
                Thread.sleep(intervalMs)
            }
        } catch (_: InterruptedException) {
            // the case is over
        }
    }

    private fun sample(kinds: List<String>) {
        for (kind in kinds) for ((source, values) in counters.read(kind)) emit(Event.Sample(clock(), kind, source, values))
    }

    private fun emit(event: Event) {
        synchronized(waiting) { waiting += event }
    }

    /** Write what waits in the order of time: the thread that samples may be overtaken. */
    private fun flush(stream: EventStream) {
        val batch = synchronized(waiting) { waiting.sortedBy { it.atNs }.also { waiting.clear() } }
        batch.forEach(stream::write)
    }

    private companion object {
        const val RUNNER = "qwen-edge android 1"
        const val TOKENIZER = "qwen-edge kotlin 1"
        const val NS_PER_MS = 1_000_000L
    }
}

/** One generation of a benchmark: greedy, of a fixed number of tokens; an end token ends nothing. */
internal class BenchmarkGeneration(private val engine: Engine, private val clock: () -> Long, private val emit: (Event) -> Unit) {
    fun run(prompt: List<Int>, newTokens: Int) {
        var logits = Generator(engine, clock, emit).prefill(prompt)
        for (index in 0..<newTokens) {
            val token = logits.indices.maxBy { logits[it] }
            emit(Event.Token(clock(), index, token))
            if (index + 1 < newTokens) logits = engine.forward(intArrayOf(token))
        }
        emit(Event.Stop(clock(), StopReason.MAX_TOKENS, newTokens))
    }
}
