package org.qwenedge.engine

import org.qwenedge.core.samplingOf

/** The settings of a step of the recorded chat. */
fun settingsOf(given: Map<*, *>?, eosTokenIds: List<Int>) = Settings(
    eosTokenIds = eosTokenIds,
    sampling = samplingOf(given.orEmpty()),
    maxTokens = (given?.get("max_tokens") as Long?)?.toInt(),
    stopStrings = (given?.get("stop_strings") as List<*>?).orEmpty().map { it as String },
)
