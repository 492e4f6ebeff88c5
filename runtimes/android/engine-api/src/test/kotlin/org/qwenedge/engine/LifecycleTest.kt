package org.qwenedge.engine

import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.qwenedge.core.EngineException
import org.qwenedge.core.Golden
import org.qwenedge.core.MemoryException
import org.qwenedge.core.tokenizer.readTokenizer
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.Pixels

/** What happens to a phone app: each time a clear sentence, and a chat that goes on. */
class LifecycleTest {
    private val tokenizer = readTokenizer(Golden.repository.resolve("export/models/tiny/tokenizer.json"))
    private val opened = ArrayList<ScriptedEngine>()
    private var failure: (() -> Nothing)? = null
    private var contextLength = 256
    private val phone = Phone { FakeFactory { makeEngine() } }

    private fun makeEngine(): Engine {
        failure?.let { fail -> failure = null; fail() }
        return ScriptedEngine(tokenizer.encode("Once upon a time."), endToken = 2018, contextLength).also { opened += it }
    }

    @Test
    fun `an answer streams, and the chat is ready for the next one`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        assertEquals(listOf("Once upon a time."), phone.answers)
        assertEquals(Phase.READY, phone.view.phase)
        assertTrue(phone.views.mapNotNull { it.answer }.distinct().size > 3, "the answer came in pieces")
        assertTrue(phone.views.last { it.phase == Phase.ANSWERING }.figures.tokensPerSecond!! > 0)
        assertNull(phone.view.notice)
    }

    @Test
    fun `a screen that comes late shows everything, as after a rotation`() {
        phone.session.choose(phone.push())
        var seen: ChatView? = null
        phone.onChange = { if (it.answer == "Once upon") seen = phone.session.view }
        phone.session.say("Hello")
        val shown = checkNotNull(seen)
        assertEquals(listOf("user"), shown.messages.map { it.role })
        assertEquals(Phase.ANSWERING, shown.phase)
    }

    @Test
    fun `regenerating reads no prompt again`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        val calls = ArrayList<Int>()
        opened.single().before = { _, tokens -> calls += tokens.size }
        phone.session.regenerate()
        assertTrue(calls.all { it == 1 }, "single steps only: $calls")
        assertEquals(1, phone.answers.size)
    }

    @Test
    fun `stop ends an answer and keeps what is written`() {
        phone.session.choose(phone.push())
        phone.onChange = { if (it.answer == "Once upon") phone.session.stop() }
        phone.session.say("Hello")
        assertEquals(Phase.READY, phone.view.phase)
        assertTrue(phone.answers.single().startsWith("Once upon") && phone.answers.single().length < 12)
        phone.onChange = {}
        phone.session.say("Go on")
        assertEquals(2, phone.answers.size)
    }

    @Test
    fun `stop in the middle of a long prompt ends it, and the chat goes on`() {
        phone.session.choose(phone.push())
        var chunks = 0
        opened.single().before = { _, tokens -> if (tokens.size > 1 && ++chunks == 2) phone.session.stop() }
        phone.session.say("word ".repeat(80))
        assertEquals(2, chunks)
        assertEquals("", phone.answers.single())
        assertEquals(Phase.READY, phone.view.phase)
        phone.session.regenerate()
        assertEquals("Once upon a time.", phone.answers.single())
    }

    @Test
    fun `an engine that fails while it answers is a notice, and the next message works`() {
        phone.session.choose(phone.push())
        opened.single().before = { _, _ -> throw EngineException("onnxruntime could not run 1 tokens after 20: bad node") }
        phone.session.say("Hello")
        assertContains(phone.view.notice!!, "bad node")
        assertEquals(Phase.READY, phone.view.phase)
        opened.single().before = { _, _ -> }
        phone.session.say("Again")
        assertNull(phone.view.notice)
        assertEquals("Once upon a time.", phone.answers.last())
    }

    @Test
    fun `an engine that fails in the middle of an answer keeps what was written`() {
        phone.session.choose(phone.push())
        var steps = 0
        opened.single().before = { _, tokens -> if (tokens.size == 1 && ++steps == 3) throw EngineException("lost the thread") }
        phone.session.say("Hello")
        assertTrue(phone.answers.single().isNotEmpty())
        phone.session.regenerate()
        assertEquals("Once upon a time.", phone.answers.single())
    }

    @Test
    fun `out of memory while answering gives the model's memory back, and the next message opens it again`() {
        phone.session.choose(phone.push())
        opened.single().before = { _, _ -> throw MemoryException("no memory for the answer; close other apps") }
        phone.session.say("Hello")
        assertContains(phone.view.notice!!, "close other apps")
        assertEquals(Phase.ASLEEP, phone.view.phase)
        assertTrue(opened.single().closed)
        phone.session.say("Again")
        assertEquals(2, opened.size)
        assertEquals("Once upon a time.", phone.answers.last())
    }

    @Test
    fun `out of memory of Java itself while opening is a notice`() {
        failure = { throw OutOfMemoryError("Failed to allocate") }
        phone.session.choose(phone.push())
        assertContains(phone.view.notice!!, "not enough memory")
        phone.session.say("Hello")
        assertEquals("Once upon a time.", phone.answers.single())
    }

    @Test
    fun `a model that does not open is a notice, and another one can be chosen`() {
        failure = { throw EngineException("onnxruntime could not open model.onnx: unknown operator") }
        phone.session.choose(phone.push("first"))
        assertContains(phone.view.notice!!, "unknown operator")
        phone.session.choose(phone.push("second"))
        phone.session.say("Hello")
        assertEquals("Once upon a time.", phone.answers.single())
    }

    @Test
    fun `low memory puts the model to sleep, and the chat is read again when it wakes`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        phone.session.sleep()
        assertTrue(opened.single().closed)
        assertEquals(Phase.ASLEEP, phone.view.phase)
        phone.session.say("Still there?")
        assertEquals(listOf("user", "assistant", "user", "assistant"), phone.view.messages.map { it.role })
        assertTrue(opened.last().position > 20, "the whole chat was read")
    }

    @Test
    fun `the chat survives the death of the process`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        phone.start()
        assertEquals(Phase.ASLEEP, phone.view.phase)
        assertEquals(listOf("Hello", "Once upon a time."), phone.view.messages.map { it.content })
        assertEquals(1, opened.size, "the model is opened by the next message, not by the start")
        phone.session.say("Go on")
        assertEquals(2, phone.answers.size)
    }

    @Test
    fun `a crash in native code is told at the next start, and nothing loads by itself`() {
        phone.session.choose(phone.push())
        phone.guardNote.writeText("answering with model")
        phone.start(systemSays = "the system killed the app for its memory")
        assertEquals("the app ended while it was answering with model: the system killed the app for its memory", phone.view.notice)
        assertEquals(1, opened.size)
        phone.start()
        assertNull(phone.view.notice, "told once")
    }

    @Test
    fun `a peaceful end leaves nothing to tell`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        assertFalse(phone.guardNote.exists())
    }

    @Test
    fun `a damaged transcript is no reason not to start`() {
        phone.transcript.writeText("""{"model": "model", "messages": [{"role": 5}]}""")
        phone.start()
        assertEquals(Phase.NO_MODEL, phone.view.phase)
        phone.transcript.writeText("{")
        phone.start()
        assertEquals(emptyList(), phone.view.messages)
    }

    @Test
    fun `a model that was deleted meanwhile is missed, not needed`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        phone.pushed.deleteRecursively()
        phone.start()
        assertEquals(Phase.NO_MODEL, phone.view.phase)
        phone.session.say("Hello?")
        assertContains(phone.view.notice!!, "choose one")
    }

    @Test
    fun `a message longer than the context changes nothing`() {
        phone.session.choose(phone.push())
        phone.session.say("Hello")
        phone.session.say("word ".repeat(400))
        assertContains(phone.view.notice!!, "the context holds 256")
        assertEquals(2, phone.view.messages.size)
        phone.session.say("Hello again")
        assertEquals(2, phone.answers.size)
    }

    @Test
    fun `a full context ends the answer with a notice, and a new chat begins empty`() {
        contextLength = 18
        phone.session.choose(phone.push { change("prefill_chunk", 16L).change("context_length", 18L) })
        phone.session.say("Hi")
        assertContains(phone.view.notice!!, "the context is full")
        assertTrue(phone.answers.single().isNotEmpty())
        phone.session.newChat()
        assertEquals(emptyList(), phone.view.messages)
        assertNull(phone.view.notice)
    }

    @Test
    fun `regenerating before the first message is a notice`() {
        phone.session.choose(phone.push())
        phone.session.regenerate()
        assertContains(phone.view.notice!!, "no message was sent yet")
        assertEquals(Phase.READY, phone.view.phase)
    }

    @Test
    fun `a picture for a model that cannot see is a notice`() {
        phone.session.choose(phone.push())
        phone.session.say("What is this?", listOf(Picture { Pixels(Grid(8, 8), ByteArray(192)) }))
        assertContains(phone.view.notice!!, "cannot see")
        assertEquals(emptyList(), phone.view.messages)
        assertFalse(phone.view.canSee)
    }

    @Test
    fun `a message without a model is a notice`() {
        phone.session.say("Hello?")
        assertContains(phone.view.notice!!, "choose one")
    }

    @Test
    fun `choosing another model closes the first and begins a new chat`() {
        phone.session.choose(phone.push("first"))
        phone.session.say("Hello")
        phone.session.choose(phone.push("second"))
        assertTrue(opened.first().closed)
        assertEquals(emptyList(), phone.view.messages)
        assertEquals("second", phone.view.model)
    }
}
