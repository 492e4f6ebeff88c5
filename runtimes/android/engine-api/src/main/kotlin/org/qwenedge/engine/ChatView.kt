package org.qwenedge.engine

import org.qwenedge.core.events.Live

/** What the chat is doing. */
enum class Phase {
    /** No model was chosen, or the last one could not be opened. */
    NO_MODEL,

    /** A model is being checked and opened. */
    LOADING,

    /** A message may be sent. */
    READY,

    /** The memory was given back; the next message opens the model again. */
    ASLEEP,

    /** An answer is being written. */
    ANSWERING,
}

/** Everything a screen shows of a chat; each change is a new value. */
data class ChatView(
    val phase: Phase = Phase.NO_MODEL,
    val model: String? = null,
    /** Whether pictures may be sent. */
    val canSee: Boolean = false,
    /** How much of the model was checked while it loads, 0 to 1. */
    val progress: Double? = null,
    val messages: List<Message> = emptyList(),
    /** The answer as far as it is written. */
    val answer: String? = null,
    val figures: Figures = Figures(),
    /** What went wrong last, in one sentence. */
    val notice: String? = null,
)

/** The speed of an answer, and how full the context is. */
data class Figures(
    val tokensPerSecond: Double? = null,
    val promptTokensPerSecond: Double? = null,
    val ttftMs: Double? = null,
    val position: Int = 0,
    val contextLength: Int = 0,
)

/** The figures of the answer in progress. */
internal fun figures(live: Live, engine: Engine): Figures {
    val generation = live.generation
    return Figures(
        tokensPerSecond = generation?.tpotNs?.let { NS_PER_S / it },
        promptTokensPerSecond = generation?.prefillTokensPerSecond,
        ttftMs = generation?.ttftMs,
        position = engine.position,
        contextLength = engine.contextLength,
    )
}

private const val NS_PER_S = 1e9
