package org.qwenedge.core

import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.qwenedge.core.sampling.Sampler
import org.qwenedge.core.sampling.Sampling
import org.qwenedge.core.sampling.SplitMix64
import org.qwenedge.core.sampling.candidates
import org.qwenedge.core.sampling.penalize

class SamplingTest {
    private val golden = Golden.read("sampling.json")

    @Test
    fun `the random numbers are those of Python`() {
        for (case in golden.objects("generator")) {
            val seed = case["seed"] as Long
            val bits = SplitMix64(seed)
            val numbers = SplitMix64(seed)
            assertEquals(case.texts("bits_hex"), List(8) { "%016x".format(bits.bits()) })
            assertEquals(case.doubles("uniform"), List(8) { numbers.uniform() })
        }
    }

    @Test
    fun `the same seed draws the same tokens as in Python`() {
        for (case in golden.objects("cases")) {
            val logits = floats(case, "logits")
            val history = case.ints("history")
            val sampler = Sampler(samplingOf(case.map("settings")))
            val picks = case.ints("picks")
            assertEquals(picks, List(picks.size) { sampler.choose(logits, history) }, case.text("name"))
        }
    }

    @Test
    fun `the filters leave the same candidates as in Python`() {
        for (case in golden.objects("cases").filter { "candidates" in it }) {
            val sampling = samplingOf(case.map("settings"))
            val scores = penalize(floats(case, "logits"), case.ints("history"), sampling.repetitionPenalty)
            val left = candidates(scores, sampling)
            assertEquals(case.ints("candidates"), left.ids.toList(), case.text("name"))
            assertEquals(floats(case, "scores").toList(), left.scores.toList(), case.text("name"))
            case.doubles("weights").zip(left.weights().toList()) { wanted, found ->
                assertEquals(wanted, found, absoluteTolerance = Math.ulp(wanted))
            }
        }
    }

    @Test
    fun `a setting outside its range is named`() {
        for (case in golden.objects("refused")) {
            val setting = case.text("setting")
            assertContains(assertFailsWith<SamplingException> { samplingOf(mapOf(setting to case["value"])) }.message!!, setting)
        }
    }

    @Test
    fun `NaN logits are an error and no token`() {
        val error = assertFailsWith<EngineException> { Sampler(Sampling.GREEDY).choose(floatArrayOf(1f, Float.NaN, 2f), listOf(1, 2)) }
        assertContains(error.message!!, "NaN logits after 2 tokens")
    }

    @Test
    fun `without a seed no two samplers draw the same`() {
        val draws = List(2) { Sampler(Sampling(temperature = 1.0)).run { List(20) { choose(FloatArray(1000), emptyList()) } } }
        assertTrue(draws[0] != draws[1])
    }

    private fun floats(case: Map<*, *>, name: String) = case.doubles(name).map(Double::toFloat).toFloatArray()
}
