package org.qwenedge.core.events

/** Why a generation ended. */
enum class StopReason(val id: String) {
    EOS("eos"),
    MAX_TOKENS("max_tokens"),
    STOP_STRING("stop_string"),
    CONTEXT("context"),
    CANCELLED("cancelled"),
}

/** What happened and when: [atNs] is a monotonic clock, so only differences mean something. */
sealed interface Event {
    val atNs: Long

    /** Opening the artifact begins. */
    data class LoadStart(override val atNs: Long) : Event

    /** The artifact is open and can run. */
    data class LoadEnd(override val atNs: Long) : Event

    /** A prompt is handed over, before it is tokenised; [promptTokens] is what it turned out to have. */
    data class Submit(override val atNs: Long, val promptTokens: Int) : Event

    /** A chunk of the prompt goes in after [position] tokens. */
    data class PrefillStart(override val atNs: Long, val position: Int, val tokens: Int) : Event

    /** A chunk of the prompt went in; [position] tokens are in the sequence now. */
    data class PrefillEnd(override val atNs: Long, val position: Int, val tokens: Int) : Event

    /** A token was chosen; the first of a generation has index 0. */
    data class Token(override val atNs: Long, val index: Int, val token: Int) : Event

    /** The generation ended after [tokens] chosen tokens. */
    data class Stop(override val atNs: Long, val reason: StopReason, val tokens: Int) : Event

    /** The first line of a stream. */
    data class Start(
        override val atNs: Long,
        val runner: String,
        val runtime: String,
        val requested: RunSettings,
        val effective: RunSettings,
    ) : Event

    /** A case of the device lab begins; [kind] is cold, warm or sustained. */
    data class CaseStart(override val atNs: Long, val case: String, val kind: String) : Event

    /** The case ended. */
    data class CaseEnd(override val atNs: Long, val case: String) : Event

    /** What a counter of the device said; each value's name ends with its unit. */
    data class Sample(override val atNs: Long, val kind: String, val source: String, val values: Map<String, Number>) : Event

    /** A named moment. */
    data class Marker(override val atNs: Long, val name: String) : Event

    /** The runner met an error; the generation in progress is over. */
    data class Failure(override val atNs: Long, val what: String) : Event
}

/** What a runner was asked for, or what it found itself running with; null is "not said". */
data class RunSettings(
    val backend: String? = null,
    val threads: Int? = null,
    val affinity: List<Int>? = null,
    val details: Map<String, String> = emptyMap(),
)

/** Hears what happens. */
fun interface Sink {
    fun emit(event: Event)

    companion object {
        val NONE = Sink { }
    }
}
