package org.qwenedge.core.sampling

import org.qwenedge.core.SamplingException

/** How tokens are chosen; temperature 0 is greedy. */
data class Sampling(
    val temperature: Double = 0.0,
    /** Draw from so many of the best tokens; 0: all. */
    val topK: Int = 0,
    /** Draw from the best tokens that make up this probability. */
    val topP: Double = 1.0,
    /** Drop tokens that are less likely than this share of the best one. */
    val minP: Double = 0.0,
    /** 1 is none. */
    val repetitionPenalty: Double = 1.0,
    /** The same seed draws the same tokens; null: another one each time. */
    val seed: Long? = null,
) {
    init {
        check("temperature", temperature, temperature >= 0 && temperature.isFinite(), "0 or more")
        check("top_k", topK, topK >= 0, "0 (all) or more")
        check("top_p", topP, topP > 0 && topP <= 1, "above 0 and at most 1")
        check("min_p", minP, minP >= 0 && minP < 1, "at least 0 and below 1")
        check("repetition_penalty", repetitionPenalty, repetitionPenalty > 0 && repetitionPenalty.isFinite(), "above 0")
        check("seed", seed, seed == null || seed >= 0, "0 or more")
    }

    private fun check(name: String, value: Any?, valid: Boolean, wanted: String) {
        if (!valid) throw SamplingException("$name is $value; it must be $wanted")
    }

    companion object {
        val GREEDY = Sampling()
    }
}
