package org.qwenedge.core.events

import kotlin.math.ceil
import kotlin.math.floor

/** One prompt and what was written after it. */
class Generation(val submit: Event.Submit) {
    val prefill = ArrayList<Pair<Event.PrefillStart, Event.PrefillEnd>>()
    val tokens = ArrayList<Event.Token>()

    /** From handing over the prompt to its first token, tokenising in. */
    val ttftMs: Double? get() = tokens.firstOrNull()?.let { milliseconds(submit.atNs, it.atNs) }

    /** Tokens of the prompt by the time from its first chunk's start to its last chunk's end. */
    val prefillTokensPerSecond: Double?
        get() {
            if (prefill.isEmpty()) return null
            val spentNs = prefill.last().second.atNs - prefill.first().first.atNs
            return if (spentNs > 0) prefill.sumOf { (_, end) -> end.tokens } * NS_PER_S / spentNs else null
        }

    /** Mean time between tokens, the first token left out. */
    val tpotNs: Double?
        get() {
            if (tokens.size < 2) return null
            return (tokens.last().atNs - tokens.first().atNs).toDouble().takeIf { it > 0 }?.div(tokens.size - 1)
        }

    /** The time between each token and the one before it. */
    val stepsNs: List<Long> get() = tokens.zipWithNext { earlier, later -> later.atNs - earlier.atNs }
}

/** What a chat shows of an answer while it is written. */
class Live : Sink {
    var generation: Generation? = null
        private set
    private var chunk: Event.PrefillStart? = null

    override fun emit(event: Event) {
        when (event) {
            is Event.Submit -> generation = Generation(event)
            is Event.PrefillStart -> chunk = event
            is Event.PrefillEnd -> chunk?.let { generation?.prefill?.add(it to event) }
            is Event.Token -> generation?.tokens?.add(event)
            else -> Unit
        }
    }
}

/** The figures of one case of the device lab; null where a figure does not exist. Defined by `benchmarks/metrics.py`. */
fun caseMetrics(events: List<Event>): Map<String, Double?> {
    val kind = events.filterIsInstance<Event.CaseStart>().single().kind
    val loads = loadsMs(events)
    val generations = generations(events)
    val steps = generations.flatMap { it.stepsNs }
    val tpotNs = median(generations.mapNotNull { it.tpotNs })
    return mapOf(
        "load_cold_ms" to loads.firstOrNull().takeIf { kind == "cold" && isCold(events) },
        "load_warm_ms" to median(loads).takeIf { kind != "cold" },
        "ttft_ms" to median(generations.mapNotNull { it.ttftMs }),
        "prefill_tok_s" to median(generations.mapNotNull { it.prefillTokensPerSecond }),
        "tpot_ms" to tpotNs?.div(NS_PER_MS),
        "tpot_p50_ms" to percentileMs(steps, percent = 50, fewest = 1),
        "tpot_p90_ms" to percentileMs(steps, percent = 90, fewest = 10),
        "tpot_p99_ms" to percentileMs(steps, percent = 99, fewest = 100),
        "decode_tok_s" to tpotNs?.let { NS_PER_S / it },
    ).mapValues { (_, value) -> value.takeIf { events.none { it is Event.Failure } && events.any { it is Event.CaseEnd } } }
}

private fun generations(events: List<Event>): List<Generation> {
    val live = Live()
    return events.asSequence().onEach(live::emit).mapNotNull { live.generation }.distinct().toList()
}

private fun loadsMs(events: List<Event>): List<Double> {
    val starts = events.filterIsInstance<Event.LoadStart>()
    return starts.zip(events.filterIsInstance<Event.LoadEnd>()) { start, end -> milliseconds(start.atNs, end.atNs) }
}

/** Whether a sample before the load says that at most 5 % of the files were in the page cache. */
private fun isCold(events: List<Event>): Boolean {
    val before = events.takeWhile { it !is Event.LoadStart }.filterIsInstance<Event.Sample>()
    val shares = before.mapNotNull { sample ->
        val total = sample.values["file_bytes"]?.toDouble()?.takeIf { it > 0 }
        sample.values["resident_bytes"]?.toDouble()?.let { resident -> total?.let { resident / it } }
    }
    return shares.lastOrNull().let { it != null && it <= MOST_CACHED }
}

/** By linear interpolation between the two nearest values. */
private fun percentileMs(stepsNs: List<Long>, percent: Int, fewest: Int): Double? {
    if (stepsNs.size < fewest) return null
    val ordered = stepsNs.sorted()
    val place = (ordered.size - 1) * percent / 100.0
    val low = ordered[floor(place).toInt()]
    val high = ordered[ceil(place).toInt()]
    return (low + (high - low) * (place - floor(place))) / NS_PER_MS
}

private fun median(values: List<Double>): Double? {
    if (values.isEmpty()) return null
    val ordered = values.sorted()
    val middle = ordered.size / 2
    return if (ordered.size % 2 == 1) ordered[middle] else (ordered[middle - 1] + ordered[middle]) / 2
}

private fun milliseconds(startNs: Long, endNs: Long) = (endNs - startNs) / NS_PER_MS

private const val NS_PER_MS = 1e6
private const val NS_PER_S = 1e9
private const val MOST_CACHED = 0.05
