package org.qwenedge.core.template

import java.io.File
import java.io.IOException
import java.time.LocalDateTime
import java.time.format.DateTimeFormatter
import kotlin.math.ceil
import org.qwenedge.core.ChatTemplateException

/**
 * A checkpoint's own chat template: jinja2 as far as chat templates use it, interpreted here.
 *
 * The template comes with the bundle, so it is as untrusted as the rest: it can compute text and nothing else, and steps
 * and characters are bounded. What it uses and this interpreter lacks is an error, never a guess.
 */
class ChatTemplate(source: String, private val specialTokens: Map<String, String> = emptyMap()) {
    private val template: Statement = guarded("does not compile") { Statements(Tokens(Lexer(source).tokens())).read() }

    /**
     * The text of a conversation. Messages and tools are JSON values, as [org.qwenedge.core.json.JsonReader] gives them;
     * [options] are the template's own switches, such as `enable_thinking`.
     */
    fun render(
        messages: List<Map<String, Any?>>,
        tools: List<Map<String, Any?>>? = null,
        addGenerationPrompt: Boolean = true,
        options: Map<String, Any?> = emptyMap(),
    ): String = guarded("failed") {
        val run = Run()
        val scope = Scope(outer = null, run)
        specialTokens.forEach { (name, text) -> scope[name] = text }
        FUNCTIONS.forEach { (name, function) -> scope[name] = function }
        scope["messages"] = messages
        scope["tools"] = tools
        scope["add_generation_prompt"] = addGenerationPrompt
        options.forEach { (name, value) -> scope[name] = value }
        template.run(scope)
        run.text()
    }

    companion object {
        private const val MAX_BYTES = 1024 * 1024
        private const val LONGEST_RANGE = 100_000L

        private val FUNCTIONS = mapOf(
            "raise_exception" to Callable { given -> throw TemplateRefusal(asText(given.positional.firstOrNull())) },
            "namespace" to Callable { given -> Namespace(given.named.toMutableMap()) },
            "range" to Callable { given -> range(given.positional.map { it as? Long
                ?: throw TemplateError("a range of what is no number") }) },
            "strftime_now" to Callable { given -> now(asText(given.positional.firstOrNull())) },
        )

        /** The template in a file of a bundle. */
        fun read(place: File, specialTokens: Map<String, String> = emptyMap()): ChatTemplate {
            if (place.length() > MAX_BYTES) {
                throw ChatTemplateException("$place: more than $MAX_BYTES bytes are no chat template")
            }
            try {
                return ChatTemplate(place.readText(), specialTokens)
            } catch (error: IOException) {
                throw ChatTemplateException("$place: cannot be read: ${error.message}; import the bundle again")
            }
        }

        private fun range(bounds: List<Long>): List<Long> {
            val (start, stop) = if (bounds.size == 1) listOf(0L, bounds[0]) else bounds
            val step = bounds.getOrElse(2) { 1L }
            val length = (stop.toDouble() - start) / step
            if (step == 0L || length > LONGEST_RANGE) throw TemplateError("a range without end")
            return Numbers(start, step, ceil(length).toInt().coerceAtLeast(0))
        }

        /** Numbers that take no memory: a hostile template may ask for them again and again. */
        private class Numbers(val start: Long, val step: Long, override val size: Int) : AbstractList<Long>(), RandomAccess {
            override fun get(index: Int): Long {
                if (index !in indices) throw IndexOutOfBoundsException("$index of $size")
                return start + index * step
            }
        }

        /** The few parts of a date that templates ask for. */
        private fun now(pattern: String): String {
            val parts = mapOf("%Y" to "yyyy", "%m" to "MM", "%d" to "dd", "%B" to "MMMM", "%b" to "MMM", "%H" to "HH", "%M" to "mm")
            val time = LocalDateTime.now()
            return parts.entries.fold(pattern) { text, (code, form) ->
                text.replace(code, time.format(DateTimeFormatter.ofPattern(form, java.util.Locale.ENGLISH)))
            }
        }

        private fun <T> guarded(what: String, action: () -> T): T = try {
            action()
        } catch (refusal: TemplateRefusal) {
            throw ChatTemplateException("the chat template refuses this conversation: ${refusal.message}")
        } catch (error: TemplateError) {
            throw ChatTemplateException("the chat template $what: ${error.message}")
        } catch (error: IndexOutOfBoundsException) {
            throw ChatTemplateException("the chat template $what: an argument is missing")
        } catch (error: NoSuchElementException) {
            throw ChatTemplateException("the chat template $what: an argument is missing")
        } catch (error: ClassCastException) {
            throw ChatTemplateException("the chat template $what: an argument of the wrong kind")
        } catch (error: StackOverflowError) {
            throw ChatTemplateException("the chat template $what: nested too deeply")
        }
    }
}
