package org.qwenedge.core.sampling

import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.artifact.sideFile

/** How the makers of a model want tokens drawn, from `generation_config.json`; greedy where the artifact has none. */
fun readSampling(artifact: Artifact): Sampling {
    val config = artifact.sideFile("generation_config.json")
    if (config["do_sample"] != true) return Sampling.GREEDY
    return Sampling(
        temperature = number(config, "temperature") ?: 1.0,
        topK = number(config, "top_k")?.toInt() ?: 0,
        topP = number(config, "top_p") ?: 1.0,
        minP = number(config, "min_p") ?: 0.0,
        repetitionPenalty = number(config, "repetition_penalty") ?: 1.0,
    )
}

private fun number(config: Map<*, *>, name: String): Double? = (config[name] as? Number)?.toDouble()
