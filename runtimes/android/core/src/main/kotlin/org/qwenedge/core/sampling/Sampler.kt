package org.qwenedge.core.sampling

import java.security.SecureRandom
import kotlin.math.exp
import org.qwenedge.core.EngineException

/** Tokens that may be drawn, best first, with their scores after penalty and temperature. */
class Candidates(val ids: IntArray, val scores: FloatArray) {
    /** How likely each is against the best one, which has weight 1. */
    fun weights(): DoubleArray = DoubleArray(ids.size) { exp(scores[it].toDouble() - scores[0].toDouble()) }

    internal fun first(count: Int) = Candidates(ids.copyOf(count), scores.copyOf(count))
}

/**
 * Draws tokens with one stream of random numbers.
 *
 * Order and formulas are those of transformers (repetition penalty, temperature, top-k, top-p, min-p). The arithmetic is
 * that of `runtimes/sampling.py`, so the same seed draws the same tokens as in Python.
 */
class Sampler(private val sampling: Sampling) {
    private val random = SplitMix64(sampling.seed ?: SecureRandom().nextLong())

    /** The next token; [history] is every token so far, the prompt included. */
    fun choose(logits: FloatArray, history: List<Int>): Int {
        val scores = penalize(logits, history, sampling.repetitionPenalty)
        val best = indexOfLargest(scores)
        if (scores[best].isNaN()) {
            throw EngineException("the model gave NaN logits after ${history.size} tokens; import the bundle again")
        }
        if (sampling.temperature == 0.0) return best
        val candidates = candidates(scores, sampling)
        return candidates.ids[draw(candidates.weights())]
    }

    private fun draw(weights: DoubleArray): Int {
        val target = random.uniform() * weights.sum()
        var sum = 0.0
        for (index in weights.indices) {
            sum += weights[index]
            if (sum > target) return index
        }
        return weights.lastIndex
    }
}

/** What may be drawn of these scores. */
fun candidates(scores: FloatArray, sampling: Sampling): Candidates {
    val heat = sampling.temperature.toFloat()
    val scaled = FloatArray(scores.size) { scores[it] / heat }
    return minP(topP(topK(scaled, sampling.topK), sampling.topP), sampling.minP)
}

/** Makes tokens of the history less likely: positive logits are divided, negative ones multiplied. */
fun penalize(logits: FloatArray, history: List<Int>, penalty: Double): FloatArray {
    if (penalty == 1.0 || history.isEmpty()) return logits
    val factor = penalty.toFloat()
    val penalized = logits.copyOf()
    for (token in history.toSet()) {
        penalized[token] = if (logits[token] < 0) logits[token] * factor else logits[token] / factor
    }
    return penalized
}

/** The lowest index among the largest values; NaN counts as the largest. */
private fun indexOfLargest(values: FloatArray): Int {
    var best = 0
    for (index in values.indices) {
        if (values[index].isNaN()) return index
        if (values[index] > values[best]) best = index
    }
    return best
}

/** The [count] best scores and those equal to the last of them, best first, the lower id first among equals. */
private fun topK(scores: FloatArray, count: Int): Candidates {
    val all = count == 0 || count >= scores.size
    val threshold = if (all) Float.NEGATIVE_INFINITY else largest(scores, count)
    val ids = scores.indices.filter { scores[it] >= threshold }.sortedWith(compareBy({ -scores[it] }, { it })).toIntArray()
    return Candidates(ids, FloatArray(ids.size) { scores[ids[it]] })
}

/** The [count]-th largest value, by a heap of the largest so far: the vocabulary is never sorted whole. */
private fun largest(values: FloatArray, count: Int): Float {
    val heap = java.util.PriorityQueue<Float>(count)
    for (value in values) {
        if (heap.size < count) {
            heap.add(value)
        } else if (value > heap.peek()) {
            heap.poll()
            heap.add(value)
        }
    }
    return heap.peek()
}

/** The shortest run of best tokens whose probability reaches [share]; at least one. */
private fun topP(candidates: Candidates, share: Double): Candidates {
    if (share == 1.0) return candidates
    val weights = candidates.weights()
    val worse = DoubleArray(weights.size)  // the weight of each token and all worse ones
    var sum = 0.0
    for (index in weights.indices.reversed()) {
        sum += weights[index]
        worse[index] = sum
    }
    val edge = (1 - share) * worse[0]
    return candidates.first(maxOf(1, worse.count { it > edge }))
}

/** The tokens at least [share] times as likely as the best one. */
private fun minP(candidates: Candidates, share: Double): Candidates =
    if (share == 0.0) candidates else candidates.first(candidates.weights().count { it >= share })
