package org.qwenedge.core.oracle

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.sqrt

/** How far answers are from the oracle's. */
class Report(
    val relativeMaxError: Double,
    val meanDivergence: Double,
    /** Why the answers are refused; null where they are right. */
    val problem: String?,
)

/** A mean of so few positions scatters: by as much as `runtimes/reference.py` allows a sample. */
private const val SCATTER = 6.0
private const val SMALLEST = 1e-30

/**
 * Compare logits by position with what is expected there, as `runtimes/reference.py` does.
 *
 * [allowance]: quantized answers may be so many times as far away as the tolerance says; 1 where the device computes as the
 * machine did that exported.
 */
fun Oracle.compare(answers: Map<Int, FloatArray>, allowance: Double = 1.0): Report {
    val differences = expected.mapNotNull { entry -> answers[entry.position]?.let { Difference(entry, it) } }
    val finite = differences.filter { it.isFinite }
    val relative = finite.maxOfOrNull { it.relativeError } ?: 0.0
    val divergence = finite.sumOf { it.divergence } / maxOf(1, finite.size)
    val most = tolerance * allowance * (1 + SCATTER / sqrt(maxOf(1, differences.size).toDouble()))
    val clear = 2 * (finite.maxOfOrNull { it.maxError } ?: 0.0)
    val wrong = finite.find { it.margin > clear && !it.isSameBest }
    val odd = differences.find { !it.isFinite }
    val problem = when {
        differences.isEmpty() -> "no position was asked"
        odd != null -> "position ${odd.position}: no finite numbers"
        kind == ToleranceKind.RELATIVE_MAX_ERROR ->
            if (relative > tolerance) "the largest relative error is $relative, $tolerance is allowed" else null
        divergence > most -> "the mean divergence is $divergence, $most is allowed"
        wrong != null -> "position ${wrong.position}: another token is best, though its margin is clear"
        else -> null
    }
    return Report(relative, divergence, problem)
}

/** The difference at one position. */
private class Difference(expected: Expected, logits: FloatArray) {
    private val ours = expected.ids.map { logits[it].toDouble() }
    val position = expected.position
    val isFinite = logits.all(Float::isFinite)
    val maxError = ours.zip(expected.logits) { one, other -> abs(one - other) }.max()
    val relativeError = maxError / maxOf(expected.logits.maxOf(::abs), SMALLEST)
    val margin = expected.logits.sortedDescending().let { (best, second) -> best - second }
    val isSameBest = isFinite && logits.indices.maxBy { logits[it] } == expected.ids[expected.logits.indices.maxBy { expected.logits[it] }]
    val divergence = if (isFinite) divergence(expected, ours, logSumOfExponentials(logits)) else Double.NaN
}

/** The Kullback-Leibler divergence; whatever mass the recorded ids leave over is one more outcome. */
private fun divergence(expected: Expected, ours: List<Double>, logSum: Double): Double {
    val wanted = expected.logits.map { it - expected.logSum }
    val found = ours.map { it - logSum }
    val rounding = 4 * Math.ulp(1f) * maxOf(1.0, abs(expected.logSum))
    val total = wanted.zip(found) { one, other -> exp(one) * (one - other) }.sum()
    val rest = 1 - wanted.sumOf(::exp)
    val other = 1 - found.sumOf(::exp)
    return maxOf(0.0, if (rest > rounding) total + rest * ln(rest / maxOf(other, rounding)) else total)
}

/** In double precision. */
private fun logSumOfExponentials(logits: FloatArray): Double {
    val peak = logits.max().toDouble()
    return peak + ln(logits.sumOf { exp(it - peak) })
}
