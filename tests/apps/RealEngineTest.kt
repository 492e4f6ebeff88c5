package org.qwenedge.engine.onnxruntime

import java.io.File
import java.util.Base64
import kotlin.math.exp
import kotlin.math.ln
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Assume.assumeTrue
import org.qwenedge.core.ContextLimitException
import org.qwenedge.core.EngineException
import org.qwenedge.core.Golden
import org.qwenedge.core.OracleException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.int
import org.qwenedge.core.json.JsonWriter
import org.qwenedge.core.map
import org.qwenedge.core.objects
import org.qwenedge.core.text
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.Pixels
import org.qwenedge.core.vision.patchImage
import org.qwenedge.engine.Conversation
import org.qwenedge.engine.Engine
import org.qwenedge.engine.Engines
import org.qwenedge.engine.Message
import org.qwenedge.engine.Piece
import org.qwenedge.engine.SeeingEngine
import org.qwenedge.engine.SelfCheck
import org.qwenedge.engine.Settings
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
    fun `a picture is seen, and spoken of in a second turn`() {
        val seeing = System.getProperty("onnxruntime.seeing")
        assumeTrue("no -Donnxruntime.seeing", seeing != null)
        val picture = Golden.read("images.json").objects("images").first()
        val options = mapOf("enable_thinking" to false)
        val answers = loadModel(Artifact.open(File(seeing!!)), Engines(listOf(factory)), options).use { model ->
            val engine = model.engine as SeeingEngine
            val seen = engine.see(patchImage(pixels(picture), engine.vision.images))
            val conversation = Conversation(engine, model.voice)
            val settings = Settings(model.artifact.manifest.eosTokenIds, maxTokens = 8)
            val questions = listOf(Message.user("What is this?", listOf(seen)), Message.user("And now?"))
            questions.map { question -> pieces { conversation.say(question, settings, onPiece = it) } }
        }
        System.getProperty("onnxruntime.seen")?.let { File(it).writeText(JsonWriter().write(answers)) }
    }

    @Test
    fun `a snapshot brings back the very same logits, and chunks add up`() {
        val engine = loaded()
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
        // an int8 code on the other side of a rounding moves every logit a little: 4e-5 nats for Python's runner, too
        assertTrue(divergence(whole, pieces) < 1e-3, "chunks say something else")
    }

    @Test
    fun `what the model cannot take is refused without a call`() {
        val engine = loaded()
        assertFailsWith<EngineException> { engine.forward(intArrayOf(artifact.manifest.vocabSize)) }
        assertFailsWith<EngineException> { engine.forward(IntArray(0)) }
        while (engine.position + engine.prefillChunk <= engine.contextLength) engine.forward(IntArray(engine.prefillChunk) { 5 })
        val room = engine.contextLength - engine.position
        if (room > 0) engine.forward(IntArray(room) { 5 })
        assertFailsWith<ContextLimitException> { engine.forward(intArrayOf(5)) }
    }

    @Test
    fun `the oracle of the bundle is answered right on the real engine, and one of another prompt is not`() {
        assumeTrue("no -Donnxruntime.artifact", place != null)
        val scratch = kotlin.io.path.createTempDirectory().toFile()
        val check = SelfCheck(scratch.resolve("notes"), system = "jvm", app = "1")
        loadModel(artifact, Engines(listOf(factory)), emptyMap(), check).close()
        assertEquals("right", scratch.resolve("notes").listFiles()!!.single().readText())
        val copy = scratch.resolve("bundle/onnx")
        artifact.directory.copyRecursively(copy)
        val oracle = artifact.directory.resolveSibling("oracle.json").readText()
        copy.resolveSibling("oracle.json").writeText(oracle.replaceFirst("\"tokens\":[", "\"tokens\":[7,"))
        val other = SelfCheck(scratch.resolve("other"), system = "jvm", app = "1")
        val error = assertFailsWith<OracleException> { loadModel(Artifact.open(copy), Engines(listOf(factory)), emptyMap(), other) }
        assertContains(error.message!!, "wrong answers on this device")
        scratch.deleteRecursively()
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

    private fun divergence(wanted: FloatArray, found: FloatArray): Double {
        fun logs(logits: FloatArray): List<Double> {
            val sum = ln(logits.sumOf { exp(it.toDouble()) })
            return logits.map { it - sum }
        }
        return logs(wanted).zip(logs(found)) { one, other -> exp(one) * (one - other) }.sum()
    }

    private fun pixels(picture: Map<*, *>) =
        Pixels(Grid(picture.int("height"), picture.int("width")), Base64.getDecoder().decode(picture.text("rgb")))

    private fun pieces(speak: ((Piece) -> Unit) -> Unit): List<Int> = ArrayList<Piece>().also { speak(it::add) }.map { it.token }

    private fun loaded(): Engine {
        assumeTrue("no -Donnxruntime.artifact", place != null)
        return factory.open(artifact, threads = 1).also(opened::add)
    }

    private fun play(conversation: Conversation, step: Map<*, *>): Map<String, Any?> {
        val pieces = ArrayList<Piece>()
        val settings = settingsOf(step["settings"] as Map<*, *>?, artifact.manifest.eosTokenIds)
        when (step.text("do")) {
            "say" -> conversation.say(Message.user(step.text("text")), settings, onPiece = pieces::add)
            "edit_last" -> conversation.editLast(Message.user(step.text("text")), settings, onPiece = pieces::add)
            "regenerate" -> conversation.regenerate(settings, onPiece = pieces::add)
            else -> conversation.reset()
        }
        return mapOf("tokens" to pieces.map { it.token }, "text" to pieces.joinToString("") { it.text })
    }
}
