package org.qwenedge.engine.onnxruntime

import java.io.File
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.junit.Assume.assumeTrue
import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.EngineException
import org.qwenedge.core.Golden
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.json.JsonWriter
import org.qwenedge.core.map
import org.qwenedge.core.objects
import org.qwenedge.core.text
import org.qwenedge.engine.Conversation
import org.qwenedge.engine.Engine
import org.qwenedge.engine.Engines
import org.qwenedge.engine.Piece
import org.qwenedge.engine.StateMemory
import org.qwenedge.engine.loadModel
import org.qwenedge.engine.settingsOf

/**
 * The engine on the real ONNX Runtime, where its Java library is there for this machine: `make test-apps` builds it.
 *
 * -Donnxruntime.artifact is an artifact of the tiny model; what is said goes to -Donnxruntime.answers, for Python to compare.
 */
class RealEngineTest {
    private val place: String? = System.getProperty("onnxruntime.artifact")
    private val artifact by lazy { Artifact.open(File(checkNotNull(place))) }
    private val factory by lazy { OnnxRuntimeFactory(StateMemory.DIRECT) }
    private val opened = ArrayList<Engine>()

    @AfterTest
    fun closeAll() = opened.forEach(Engine::close)

    @Test
    fun `the script of the recorded chat is played on the real engine`() {
        val recording = Golden.read("recording.json")
        val options = recording.map("options").entries.associate { (key, value) -> key as String to value }
        assumeTrue("no -Donnxruntime.artifact", place != null)
        val answers = loadModel(artifact, Engines(listOf(factory)), options).use { model ->
            val conversation = Conversation(model.engine, model.voice, recording.text("system"))
            recording.objects("script").map { step -> play(conversation, step) }
        }
        System.getProperty("onnxruntime.answers")?.let { File(it).writeText(JsonWriter().write(answers)) }
    }

    @Test
    fun `a snapshot brings back the very same logits, and chunks add up`() {
        val engine = open()
        val prompt = IntArray(40) { 7 * it % 500 }
        val whole = engine.forward(prompt)
        val snapshot = engine.snapshot()
        val next = engine.forward(intArrayOf(3))
        repeat(5) { engine.forward(intArrayOf(it)) }
        engine.restore(snapshot)
        assertEquals(40, engine.position)
        assertContentEquals(next, engine.forward(intArrayOf(3)))
        engine.reset()
        engine.forward(prompt.copyOf(25))
        val pieces = engine.forward(prompt.copyOfRange(25, 40))
        whole.zip(pieces) { one, other -> assertEquals(one, other, absoluteTolerance = 2e-2f) }
    }

    @Test
    fun `what the model cannot take is refused without a call`() {
        val engine = open()
        assertFailsWith<EngineException> { engine.forward(intArrayOf(artifact.manifest.vocabSize)) }
        assertFailsWith<EngineException> { engine.forward(IntArray(0)) }
        while (engine.position + engine.prefillChunk <= engine.contextLength) engine.forward(IntArray(engine.prefillChunk) { 5 })
        val room = engine.contextLength - engine.position
        if (room > 0) engine.forward(IntArray(room) { 5 })
        assertFailsWith<ContextLimitException> { engine.forward(intArrayOf(5)) }
    }

    @Test
    fun `a file that is no model is an error of ours`() {
        assumeTrue("no -Donnxruntime.artifact", place != null)
        val broken = kotlin.io.path.createTempDirectory().toFile()
        artifact.directory.copyRecursively(broken, overwrite = true)
        val model = broken.resolve(artifact.manifest.modelFile)
        model.writeBytes(ByteArray(model.length().toInt()) { 7 })
        assertFailsWith<EngineException> { factory.open(Artifact.open(broken), threads = 1) }
        broken.deleteRecursively()
    }

    private fun open(): Engine {
        assumeTrue("no -Donnxruntime.artifact", place != null)
        return factory.open(artifact, threads = 1).also(opened::add)
    }

    private fun play(conversation: Conversation, step: Map<*, *>): Map<String, Any?> {
        val pieces = ArrayList<Piece>()
        val settings = settingsOf(step["settings"] as Map<*, *>?, artifact.manifest.eosTokenIds)
        when (step.text("do")) {
            "say" -> conversation.say(step.text("text"), settings, onPiece = pieces::add)
            "edit_last" -> conversation.editLast(step.text("text"), settings, onPiece = pieces::add)
            "regenerate" -> conversation.regenerate(settings, onPiece = pieces::add)
            else -> conversation.reset()
        }
        return mapOf("tokens" to pieces.map { it.token }, "text" to pieces.joinToString("") { it.text })
    }
}
