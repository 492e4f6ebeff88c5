package org.qwenedge.engine

import org.qwenedge.core.ChatTemplateException
import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.ConversationException
import org.qwenedge.core.ImageException
import org.qwenedge.core.events.Event
import org.qwenedge.core.events.Sink
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.template.ChatTemplate
import org.qwenedge.core.tokenizer.Tokenizer

/** What a conversation speaks through: the tokenizer, the template and its switches. */
class Voice(val tokenizer: Tokenizer, val template: ChatTemplate, val options: Map<String, Any?> = emptyMap())

/**
 * A conversation on top of an engine, which never computes the same token twice if it can help it.
 *
 * The chat template renders the whole conversation each turn. As far as that text equals what the model has already read and
 * written, the tokens in the sequence stay, exactly as they were generated; only the rest is tokenized and prefilled. Gated
 * DeltaNet's state cannot be cut back, so regenerating an answer or editing a message returns to a checkpoint: a snapshot
 * taken before the turn, after its prompt, or after the system message.
 */
class Conversation(
    private val engine: Engine,
    private val voice: Voice,
    private val system: String? = null,
    private val clock: () -> Long = System::nanoTime,
    private val emit: Sink = Sink.NONE,
) {
    private val sequence = Sequence(engine)
    private val spoken = ArrayList<Message>()
    private var before: Checkpoint? = null
    private var prompted: Checkpoint? = null
    private var systemPrefix: Checkpoint? = null

    /** The messages so far, the system message first. */
    val messages: List<Message> get() = spoken.toList()

    /** How full the context is, in tokens. */
    val position: Int get() = engine.position

    init {
        reset()
    }

    /** Start over; the system message stays. */
    fun reset() {
        continueFrom(listOfNotNull(system?.let(Message::system)))
    }

    /** Take up a conversation that was held elsewhere; it is read when the next message is sent. */
    fun continueFrom(messages: List<Message>) {
        spoken.clear()
        spoken += messages
        before = null
        prompted = null
        systemPrefix = null
        sequence.reset()
    }

    /** Add a user message and stream the answer. */
    fun say(
        message: Message,
        settings: Settings,
        cancellation: Cancellation = Cancellation.NEVER,
        onPiece: (Piece) -> Unit,
    ): StopReason {
        checkFits(spoken + message)
        spoken += message
        return answer(settings, cancellation, onPiece)
    }

    /** Drop the last answer and stream another one to the same message. */
    fun regenerate(
        settings: Settings,
        cancellation: Cancellation = Cancellation.NEVER,
        onPiece: (Piece) -> Unit,
    ): StopReason {
        dropFrom(lastUser("regenerate") + 1)
        return answer(settings, cancellation, onPiece)
    }

    /** Replace the last user message and stream an answer to the new one. */
    fun editLast(
        edited: Message,
        settings: Settings,
        cancellation: Cancellation = Cancellation.NEVER,
        onPiece: (Piece) -> Unit,
    ): StopReason {
        val last = lastUser("edit")
        checkFits(spoken.take(last) + edited)
        dropFrom(last)
        spoken += edited
        return answer(settings, cancellation, onPiece)
    }

    /** Bring the sequence up to the rendered conversation, then stream and record the answer, as far as it came. */
    private fun answer(settings: Settings, cancellation: Cancellation, onPiece: (Piece) -> Unit): StopReason {
        val shown = StringBuilder()
        val generator = Generator(engine, clock, emit, cancellation)
        try {
            val logits = prepare(rendered(spoken), generator)
            return sequence.write(voice.tokenizer) { history ->
                generator.stream(voice.tokenizer, logits, history, settings) { piece ->
                    shown.append(piece.text)
                    onPiece(piece)
                }
            }
        } catch (_: CancelledInPrompt) {
            emit.emit(Event.Stop(clock(), StopReason.CANCELLED, tokens = 0))
            return StopReason.CANCELLED
        } finally {
            spoken += Message.assistant(shown.toString())
        }
    }

    /** Put the sequence into the state after [text], from the best place that is already computed. */
    private fun prepare(whole: Rendered, generator: Generator): FloatArray {
        val submittedNs = clock()
        prompted?.let { place ->
            if (place.rendered == whole && place.logits != null) {
                sequence.returnTo(place)
                emit.emit(Event.Submit(submittedNs, promptTokens = 0))
                return place.logits.copyOf()
            }
        }
        if (!sequence.standsBefore(whole)) sequence.returnTo(bestCheckpoint(whole))
        before = sequence.mark()
        val prefix = systemPart(whole.text)
        val suffix = voice.tokenizer.encode(whole.text.substring((prefix?.text ?: sequence.rendered.text).length))
        emit.emit(Event.Submit(submittedNs, promptTokens = (prefix?.tokens?.size ?: 0) + suffix.size))
        if (prefix != null) {
            sequence.read(prefix.tokens, Rendered(prefix.text), emptyList(), generator)
            systemPrefix = sequence.mark()
        }
        val images = spoken.flatMap { it.images }.drop(sequence.rendered.images.size)
        val logits = sequence.read(suffix, whole, images, generator)
        prompted = sequence.mark(logits.copyOf())
        return logits
    }

    private class Part(val text: String, val tokens: List<Int>)

    /** On a first turn, the system part of the text: a stop there saves later edits from reading it again. */
    private fun systemPart(text: String): Part? {
        if (!sequence.isEmpty || system == null) return null
        val prefix = systemText(system)
        val tokens = voice.tokenizer.encode(prefix)
        return Part(prefix, tokens).takeIf { tokens.size >= MIN_SYSTEM_TOKENS && text.startsWith(prefix) && text != prefix }
    }

    /** The text before the first user message, up to the special token that opens it: tokens cannot merge across. */
    private fun systemText(system: String): String {
        val (first, second) = PROBES.map { render(listOf(Message.system(system), Message.user(it))) }
        val tokens = voice.tokenizer.encode(first.commonPrefixWith(second))
        val opening = tokens.indexOfLast { voice.tokenizer.decode(listOf(it)).isEmpty() }
        return voice.tokenizer.decode(tokens.take(maxOf(0, opening)), special = true)
    }

    /** The longest place that the text begins with. */
    private fun bestCheckpoint(whole: Rendered): Checkpoint =
        listOfNotNull(Checkpoint.START, systemPrefix, before, prompted)
            .filter { whole.beginsWith(it.rendered) && it.rendered.text != whole.text }
            .maxBy { it.tokens.size }

    /** Refuse a message before anything changes: one that the template refuses, or that the context cannot hold. */
    private fun checkFits(messages: List<Message>) {
        val text = rendered(messages).text
        if (text.isEmpty()) throw ChatTemplateException("the chat template rendered nothing for this conversation")
        val count = voice.tokenizer.encode(text).size
        if (count >= engine.contextLength) {
            throw ContextLimitException(
                "the conversation has $count tokens, the context holds ${engine.contextLength}; shorten the message or start a new chat",
            )
        }
    }

    private fun rendered(messages: List<Message>): Rendered {
        val images = messages.flatMap { it.images }
        return Rendered(withRoomFor(images, render(messages)), images.map { it.digest })
    }

    /** The text with each image's placeholder repeated, once for each of its tokens. */
    private fun withRoomFor(images: List<SeenImage>, text: String): String {
        if (images.isEmpty()) return text
        val seeing = engine as? SeeingEngine ?: throw ImageException("this model cannot see; choose one that can")
        val placeholder = voice.tokenizer.decode(listOf(seeing.vision.imageTokenId), special = true)
        val parts = text.split(placeholder)
        if (parts.size != images.size + 1) {
            throw ImageException("the text has ${parts.size - 1} places for ${images.size} images; do not write $placeholder")
        }
        return parts.indices.joinToString("") { parts[it] + placeholder.repeat(images.getOrNull(it)?.grid?.cells ?: 0) }
    }

    private fun render(messages: List<Message>): String =
        voice.template.render(messages.map(Message::forTemplate), options = voice.options)

    private fun lastUser(what: String): Int {
        val last = spoken.indexOfLast { it.role == "user" }
        if (last < 0) throw ConversationException("nothing to $what: no message was sent yet")
        return last
    }

    private fun dropFrom(index: Int) {
        while (spoken.size > index) spoken.removeAt(spoken.lastIndex)
    }

    private companion object {
        /** Two user messages that share no character: what their renderings share is the system part. */
        val PROBES = listOf("a", "b")
        const val MIN_SYSTEM_TOKENS = 8
    }
}
